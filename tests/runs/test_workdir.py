"""The folder of a run belongs to one config and to one set of images."""

import errno
import json
import os

import pytest
from etils import epath
from runs import DATA, make_workdir
from tiny import tiny_config

from ibot_jax.config import defaults
from ibot_jax.config.flat import as_json, make_config
from ibot_jax.config.keys import Kind
from ibot_jax.data.sources.identity import Identity
from ibot_jax.errors import UserError
from ibot_jax.finetune import config as finetune
from ibot_jax.runs.workdir import differences, open_workdir, require_shared


def opened(path, config=None, data=DATA, *, allow=False):
    recorded = as_json(config or tiny_config())
    return open_workdir(str(path), recorded, data, allow_config_change=allow)


@pytest.fixture
def run(tmp_path):
    """Returns the workdir of a run that has saved."""
    make_workdir(tmp_path, tiny_config())
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    (tmp_path / "checkpoints/4/commit_success.txt").touch()
    return tmp_path


def test_a_new_workdir_is_made_and_nothing_recorded_before_the_run_begins(tmp_path):
    assert str(opened(tmp_path / "a/b")) == str(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []
    make_workdir(tmp_path / "a/b", tiny_config())
    recorded = json.loads((tmp_path / "a/b/config.json").read_text())
    assert recorded["model.width"] == 16
    assert recorded["data.global_size"] == [16, 16]
    assert {p.name for p in (tmp_path / "a/b").iterdir()} == {"config.json", "history.json"}


def test_the_same_config_may_come_again(run):
    for _ in range(2):
        opened(run)


def test_a_start_that_failed_refuses_no_other_config(tmp_path):
    """A run without a checkpoint holds nothing that another config could spoil."""
    make_workdir(tmp_path, tiny_config())
    opened(tmp_path, tiny_config(optim__lr=0.1), Identity(images=3, names="other"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Identity(images=9, names="1" * 64), "data.source had 8, and has 9 now; restore"),
        (Identity(images=5, names="1" * 64), "data.source had 8, and has 5 now; restore"),
        (Identity(images=8, names="1" * 64), "had 8, and has 8 now, of other names; restore"),
    ],
)
def test_other_images_are_refused_unless_allowed(run, data, told):
    with pytest.raises(UserError, match=told):
        opened(run, data=data)
    opened(run, data=data, allow=True)
    (run / "history.json").unlink()  # an earlier version recorded none
    opened(run, data=data)


def test_a_checkpoint_is_no_workdir(run):
    (run / "checkpoints/4/_CHECKPOINT_METADATA").touch()
    with pytest.raises(UserError, match=rf"is a checkpoint; give the folder of its run, {run}$"):
        opened(run / "checkpoints/4")
    opened(run / "checkpoints/5")  # an odd name, but nobody's


def test_every_differing_key_is_named_with_both_values(run):
    other = tiny_config(optim__lr=0.1, masks__ratios=(0.0, 0.4))
    with pytest.raises(UserError) as error:
        opened(run, other)
    assert "optim.lr was 0.05, now 0.1" in str(error.value)
    assert "masks.ratios was [0.0, 0.3], now [0.0, 0.4]" in str(error.value)
    opened(run, other, allow=True)
    with pytest.raises(UserError):
        opened(run, other)  # the start that was allowed has not begun
    make_workdir(run, other, allow=True)
    opened(run, other)  # now it is its config


@pytest.mark.parametrize(
    "change",
    [
        dict(log_every="7 steps"),
        dict(checkpoint__keep=9),
        dict(knn__every=""),
        dict(probe__max_steps=0),
        dict(data__workers=5),
        dict(data__data_dir="/elsewhere"),
        dict(data__max_bad_share=0.5),
        dict(data__stall_seconds=0.0),
    ],
)
def test_what_moves_no_parameter_may_differ(run, change):
    opened(run, tiny_config(**change))


@pytest.mark.parametrize("table", [defaults, finetune], ids=["pretraining", "finetuning"])
def test_only_what_is_learned_is_a_difference(table):
    now = as_json(make_config(table.KEYS))
    for name, key in table.KEYS.items():
        found = differences(now | {name: "another"}, now, table.KEYS)
        assert [changed for changed, _, _ in found] == [name] * (key.kind is Kind.LEARNED)


@pytest.mark.parametrize(
    "change", [dict(seed=1), dict(duration="5 epochs"), dict(init_from="x"), dict(dtype="bfloat16")]
)
def test_what_moves_parameters_may_not(run, change):
    with pytest.raises(UserError, match=f"{next(iter(change))} was"):
        opened(run, tiny_config(**change))


def test_keys_that_one_of_the_two_lacks():
    """Of those that the run's version did not have yet, the default was what it did."""
    config = tiny_config(seed=3)
    recorded = {"optim.lr": config.optim.lr, "old.key": 3}
    changes = {key: (was, now) for key, was, now in differences(recorded, as_json(config))}
    assert changes["old.key"] == ("3", "absent")
    assert changes["seed"] == ("0", "3")
    assert changes.keys().isdisjoint({"optim.lr", "data.exif", "data.blur"})


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 10**5, b'{"seed": "\xff"}', b"", b"3"])
@pytest.mark.parametrize("name", ["config.json", "history.json"])
def test_files_that_are_damaged(run, name, content):
    (run / name).write_bytes(content)
    if (name, content) == ("history.json", b"[]"):  # of an earlier version, as it were
        opened(run)
        return
    with pytest.raises(UserError, match=f"/{name} .*; restore"):
        opened(run)


def test_a_folder_in_place_of_the_config(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match=r"config\.json is a folder"):
        opened(tmp_path)


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--workdir=\S+ cannot be written \(Not a directory\)"):
        opened(tmp_path / "file/run")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("folder", [".", "checkpoints"])
def test_a_workdir_that_may_only_be_read(tmp_path, folder):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / folder).chmod(0o555)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        opened(tmp_path)


def test_a_full_disk(tmp_path, monkeypatch):
    def write_text(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(epath.Path("x").__class__, "write_text", write_text)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        opened(tmp_path)


def test_a_workdir_that_another_host_does_not_see(tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path)
    require_shared(workdir)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("ibot_jax.runs.workdir._VISIBLE_SECONDS", 0)
    monkeypatch.setattr("ibot_jax.runs.workdir.is_first", lambda: False)  # it is elsewhere
    with pytest.raises(UserError, match="is not the same folder on all hosts"):
        require_shared(workdir)


def test_a_workdir_is_seen_once_the_first_process_has_written_to_it(tmp_path, monkeypatch):
    looked = []

    def wait_for_all(seen):
        looked.append(seen())
        (tmp_path / ".shared.abc").touch()
        looked.append(seen())

    monkeypatch.setattr("ibot_jax.runs.workdir.is_first", lambda: False)
    monkeypatch.setattr("ibot_jax.runs.workdir.first_text", lambda _: "abc")
    monkeypatch.setattr("ibot_jax.runs.workdir.wait_for_all", wait_for_all)
    require_shared(epath.Path(tmp_path))
    assert looked == [False, True]
