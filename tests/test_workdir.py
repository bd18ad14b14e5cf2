"""The folder of a run belongs to one config."""

import errno
import json
import os

import pytest
from etils import epath
from tiny import tiny_config

from ibot_jax.errors import UserError
from ibot_jax.workdir import differences, open_workdir, require_shared


def test_a_new_workdir_is_made_and_records_the_config(tmp_path):
    path = tmp_path / "a/b"
    workdir = open_workdir(str(path), tiny_config(), allow_config_change=False)
    recorded = json.loads((path / "config.json").read_text())
    assert str(workdir) == str(path)
    assert recorded["model.width"] == 16
    assert recorded["data.global_size"] == [16, 16]
    assert [p.name for p in path.iterdir()] == ["config.json"]


def test_the_same_config_may_come_again(tmp_path):
    for _ in range(2):
        open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)


def test_every_differing_key_is_named_with_both_values(tmp_path):
    open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)
    other = tiny_config(optim__lr=0.1, masks__ratios=(0.0, 0.4))
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), other, allow_config_change=False)
    assert "optim.lr was 0.05, now 0.1" in str(error.value)
    assert "masks.ratios was [0.0, 0.3], now [0.0, 0.4]" in str(error.value)
    open_workdir(str(tmp_path), other, allow_config_change=True)
    open_workdir(str(tmp_path), other, allow_config_change=False)  # now it is its config


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
def test_what_moves_no_parameter_may_differ(tmp_path, change):
    open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)
    open_workdir(str(tmp_path), tiny_config(**change), allow_config_change=False)


@pytest.mark.parametrize(
    "change", [dict(seed=1), dict(duration="5 epochs"), dict(init_from="x"), dict(dtype="bfloat16")]
)
def test_what_moves_parameters_may_not(tmp_path, change):
    open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)
    with pytest.raises(UserError, match=f"{next(iter(change))} was"):
        open_workdir(str(tmp_path), tiny_config(**change), allow_config_change=False)


def test_keys_that_one_of_the_two_lacks():
    """Of those that the run's version did not have yet, the default was what it did."""
    config = tiny_config(seed=3)
    recorded = {"optim.lr": config.optim.lr, "old.key": 3}
    changes = {key: (was, now) for key, was, now in differences(recorded, config)}
    assert changes["old.key"] == ("3", "absent")
    assert changes["seed"] == ("0", "3")
    assert changes.keys().isdisjoint({"optim.lr", "data.exif", "data.blur"})


def test_a_config_file_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no JSON"):
        open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--workdir=\S+ cannot be written \(Not a directory\)"):
        open_workdir(str(tmp_path / "file/run"), tiny_config(), allow_config_change=False)
    with pytest.raises(UserError, match="cannot be written"):
        open_workdir(str(tmp_path / "file"), tiny_config(), allow_config_change=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("folder", [".", "checkpoints"])
def test_a_workdir_that_may_only_be_read(tmp_path, folder):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / folder).chmod(0o555)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)


def test_a_full_disk(tmp_path, monkeypatch):
    def write_text(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(epath.Path("x").__class__, "write_text", write_text)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)


def test_a_workdir_that_another_host_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr("ibot_jax.workdir._VISIBLE_SECONDS", 0)
    monkeypatch.setattr("ibot_jax.workdir.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="is not the same folder on all hosts"):
        require_shared(epath.Path(tmp_path))
    open_workdir(str(tmp_path), tiny_config(), allow_config_change=False)
    require_shared(epath.Path(tmp_path))
