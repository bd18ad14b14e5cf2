"""A file or folder has its name when it is whole, and else nothing is left."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from etils import epath

from ibot_jax.files.atomic import remove, renamed, write_bytes, write_json


def names(folder):
    return sorted(os.listdir(folder))


def test_a_file_is_replaced_and_nothing_is_beside_it(tmp_path):
    target = epath.Path(tmp_path) / "config.json"
    write_bytes(target, b"old")
    write_json(target, {"a": [1, None]})
    assert target.read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert names(tmp_path) == ["config.json"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = epath.Path(tmp_path) / "figure.png"
    write_bytes(target, b"old")
    with renamed(target) as path:
        assert path.suffix == ".png"  # by which libraries tell the format
        path.write_bytes(b"ne")
        assert target.read_bytes() == b"old"
        path.write_bytes(b"new")
    assert target.read_bytes() == b"new"


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    target = epath.Path(tmp_path) / "model"
    for content in ("old", "new"):
        with renamed(target) as path:
            path.mkdir()
            (path / content).touch()
    assert (names(tmp_path), names(target)) == (["model"], ["new"])


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, error, folder):
    target = epath.Path(tmp_path) / "out"
    write_bytes(target, b"old")

    def fail():
        with renamed(target) as path:
            if folder:
                path.mkdir()
                path /= "part"
            path.write_bytes(b"ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (names(tmp_path), target.read_bytes()) == (["out"], b"old")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path, number):
    program = f"""
        import os, time
        from etils import epath
        from ibot_jax.files.atomic import renamed
        from ibot_jax.parallel import signals

        signals.end_at_once()
        with renamed(epath.Path({str(tmp_path)!r}) / "out") as path:
            path.write_bytes(b"half")
            os.kill(os.getpid(), {int(number)})
            time.sleep(60)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=120)
    assert ended.returncode == 128 + number
    assert names(tmp_path) == []


def test_a_folder_that_nobody_writes_to_any_more_is_removed_at_once(tmp_path):
    (tmp_path / "out/in").mkdir(parents=True)
    remove(epath.Path(tmp_path / "out"), quiet_s=0)
    assert names(tmp_path) == []
