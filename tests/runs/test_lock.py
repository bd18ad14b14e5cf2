"""One run a workdir: who lives keeps the others out, who is dead does not."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from etils import epath

from ibot_jax.errors import TrainingError, UserError
from ibot_jax.runs import lock
from ibot_jax.runs.lock import Lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.1)


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def other(tmp_path):
    """Returns a process that holds the lock of the folder, as far as its file says."""
    process = subprocess.Popen(["sleep", "1000"])
    text = lock._this_process() | {"pid": process.pid, "start": lock._start_of(process.pid)}
    (tmp_path / ".lock.json").write_text(json.dumps(text))
    yield process
    process.kill()
    process.wait()


def waited_for(holds):
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def failure(held):
    """Returns what the lock finds wrong, some time later."""
    assert waited_for(lambda: held._error is not None)
    with pytest.raises(TrainingError) as raised:
        held.check()
    return str(raised.value)


def test_a_folder_is_taken_once_and_again_when_it_is_released(folder):
    with Lock(folder).held() as held:
        held.check()
        with pytest.raises(UserError, match=rf"--out=.* process {os.getpid()} on "):
            Lock(folder, flag="--out")
    assert list(folder.iterdir()) == []
    Lock(folder).release()


def test_a_living_process_is_named_with_its_host(folder, other):
    message = rf"{folder} is in use by process {other.pid} on {socket.gethostname()} since 20"
    with pytest.raises(UserError, match=message):
        Lock(folder)


def test_a_stopped_process_lives(folder, other):
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match=f"process {other.pid} "):
        Lock(folder)


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_keeps_nobody_out(folder, other, reaped, caplog):
    other.kill()
    if reaped:
        other.wait()
    else:  # a zombie
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    Lock(folder).release()
    assert not caplog.text


def test_the_number_of_a_dead_process_that_another_one_has_now_keeps_nobody_out(folder, other):
    text = json.loads((folder / ".lock.json").read_text()) | {"start": "1"}
    other.kill()
    (folder / ".lock.json").write_text(json.dumps(text | {"pid": os.getpid()}))
    Lock(folder).release()


def of_elsewhere(folder, **values):
    """Writes the lock of a process that cannot be asked for, with a number that lives here."""
    text = {"host": "elsewhere", "pid": os.getpid(), "place": "another boot", "token": "x"}
    (folder / ".lock.json").write_text(json.dumps(text | values))


def test_a_process_elsewhere_without_a_sign_of_life_is_waited_for_and_passed(folder, caplog):
    of_elsewhere(folder)
    start = time.monotonic()
    Lock(folder).release()
    assert time.monotonic() - start >= 1.0
    assert "on elsewhere, which this host cannot ask for: waiting up to 1 s" in caplog.text


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_a_process_elsewhere_that_gives_a_sign_of_life_is_named(folder, host):
    """Its host may have this one's name: containers that are started again have."""
    of_elsewhere(folder, host=host)
    threading.Timer(0.3, of_elsewhere, [folder], {"host": host, "beat": 1}).start()
    with pytest.raises(UserError, match=f"process {os.getpid()} on {host} "):
        Lock(folder)


def test_a_process_elsewhere_that_ends_well_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 1000)
    of_elsewhere(folder)
    threading.Timer(0.2, (folder / ".lock.json").unlink).start()
    Lock(folder).release()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_damaged_file_is_that_of_a_process_that_died_while_writing_it(folder, text):
    (folder / ".lock.json").write_bytes(text)
    Lock(folder).release()
    assert list(folder.iterdir()) == []


def test_a_held_lock_gives_signs_of_life_in_the_same_file(folder):
    path = folder / ".lock.json"
    with Lock(folder).held():
        first, inode = path.read_bytes(), os.stat(path).st_ino
        assert waited_for(lambda: path.read_bytes() not in (first, b""))
        assert os.stat(path).st_ino == inode
        assert json.loads(first)["pid"] == os.getpid()


def test_a_lock_that_somebody_removed_is_there_again(folder):
    with Lock(folder).held() as held:
        (folder / ".lock.json").unlink()
        assert waited_for((folder / ".lock.json").exists)
        held.check()


def test_a_lock_that_another_process_took_over_is_an_error_and_stays_its(folder):
    with Lock(folder).held() as held:
        of_elsewhere(folder)
        message = failure(held)
        assert f"was taken over by process {os.getpid()} on elsewhere" in message
    assert (folder / ".lock.json").exists()


@pytest.mark.parametrize("name", ["", "metrics.jsonl", "tensorboard"])
@pytest.mark.parametrize("again", [True, False])
def test_what_is_removed_is_noticed(folder, name, again):
    run = folder / "run"
    (run / "tensorboard").mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    held = Lock(run)
    held.watch("tensorboard", "metrics.jsonl", "checkpoints")
    waited_for(lambda: held._own["beat"] > 1)
    held.check()
    path = run / name if name else run
    is_folder = path.is_dir()
    path.rename(folder / "aside")
    if again and name:  # another one of the same name
        path.mkdir() if is_folder else path.touch()
    assert failure(held) == f"{path} was removed while the run was writing to it"
    held.release()


def test_a_disk_that_takes_nothing_any_more_is_noticed_but_not_at_once(folder, monkeypatch):
    held = Lock(folder)
    working = [False] * 2 + [True] * 2 + [False] * 1000  # a moment, and then for good

    def write_bytes(self, data):
        if not working.pop(0):
            raise OSError(28, "No space left on device")
        return original(self, data)

    original = type(folder).write_bytes
    monkeypatch.setattr(type(folder), "write_bytes", write_bytes)
    assert failure(held) == f"{folder} cannot be written (No space left on device)"
    assert len(working) < 1000
    held.release()


def test_in_a_bucket_the_later_of_two_writers_stays(tmp_path, monkeypatch):
    """Who finds another's text where he has put his own is out."""
    folder = epath.Path(tmp_path)
    monkeypatch.setattr(lock, "_is_bucket", lambda path: True)
    threading.Timer(0.05, of_elsewhere, [folder]).start()
    threading.Timer(0.5, of_elsewhere, [folder], {"beat": 1}).start()
    with pytest.raises(UserError, match="on elsewhere"):
        Lock(folder)


def test_a_bucket_is_held_and_released(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_is_bucket", lambda path: True)
    folder = epath.Path(tmp_path)
    with Lock(folder).held() as held:
        path = folder / ".lock.json"
        first = path.read_bytes()
        assert waited_for(lambda: path.read_bytes() not in (first, b""))
        held.check()
    assert not path.exists()
