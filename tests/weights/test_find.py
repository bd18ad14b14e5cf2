"""A path below a run is taken for what it is, or answered with the right one."""

import re

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.checkpoints import is_checkpoint
from ibot_jax.weights.find import find


def place_and_step(path, step):
    source = find(str(path), step)
    return source.place, source.step


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "runs/mine"
    for step in (5, 10):
        (run / f"checkpoints/{step}/teacher").mkdir(parents=True)
        (run / f"checkpoints/{step}/commit_success.txt").touch()
    (run / "config.json").write_text('{"data.source": "digits"}')
    return epath.Path(run)


@pytest.mark.parametrize(
    ("path", "which", "step"),
    [
        (".", "latest", "latest"),
        (".", "best", "best"),
        (".", "5", "5"),
        ("checkpoints", "latest", "latest"),
        ("checkpoints", "best", "best"),
        ("checkpoints/5", "latest", "5"),
        ("checkpoints/5", "5", "5"),
    ],
)
def test_a_run_its_checkpoints_and_one_of_them(run, path, which, step):
    assert place_and_step(run / path, which) == (run, step)


def test_what_is_no_place_to_read_from_is_answered_with_one(run):
    step = run / "checkpoints/5"
    with pytest.raises(UserError, match=rf"step '10' is another; give its run, {run}, or no step"):
        place_and_step(step, "10")
    with pytest.raises(UserError, match=rf"is a part of a checkpoint; give the checkpoint, {step}"):
        place_and_step(step / "teacher", "latest")
    for name in ("5.damaged", "5.damaged-2"):
        (run / "checkpoints" / name).mkdir()
        with pytest.raises(UserError, match="was set aside as damaged"):
            place_and_step(run / "checkpoints" / name, "latest")


@pytest.mark.parametrize("made", ["config.json", "checkpoints"])
def test_a_workdir_may_have_the_path_of_a_checkpoint(tmp_path, made):
    nested = epath.Path(tmp_path) / "mine/checkpoints/1"
    nested.mkdir(parents=True)
    assert is_checkpoint(nested)
    if made == "config.json":
        (nested / made).write_text('{"data.source": "digits"}')
    else:
        (nested / made).mkdir()
    assert not is_checkpoint(nested)
    assert place_and_step(nested, "latest") == (nested, "latest")


MADE = {  # files with their content, and folders
    "run": {"config.json": '{"data.source": "digits"}', "checkpoints/3/teacher": None},
    "run that has saved nothing": {"config.json": '{"data.source": "digits"}'},
    "run whose config is lost": {"checkpoints/3/teacher": None},
    "fine-tuning": {"config.json": '{"flags.source": "runs/a"}', "checkpoints/3/params": None},
    "export": {"config.json": '{"model": {}}', "params": None},
    "start": {"config.json": '{"model": {}}', "student": None, "teacher": None, "centers": None},
    "foreign, of transformers": {"config.json": '{"model_type": "vit"}', "model.safetensors": ""},
    "foreign, of timm": {"config.json": '{"architecture": "vit"}', "pytorch_model.bin": ""},
    "foreign, as far as one sees": {},
}


@pytest.mark.parametrize("name", MADE)
def test_what_a_folder_holds(tmp_path, name):
    for path, content in MADE[name].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            (tmp_path / path).mkdir()
        else:
            (tmp_path / path).write_text(content)
    kind = re.match("run|fine-tuning|export|start|foreign", name).group()
    assert find(str(tmp_path)).kind == kind


def test_what_a_file_holds(tmp_path):
    np.savez(tmp_path / "own.npz", config="{}")
    np.savez(tmp_path / "other.npz", weight=np.zeros(2))
    safetensors.numpy.save_file({}, tmp_path / "own.safetensors", metadata={"config": "{}"})
    safetensors.numpy.save_file({}, tmp_path / "other.safetensors")
    (tmp_path / "other.pth").touch()
    for path in tmp_path.iterdir():
        assert find(str(path)).kind == ("export" if path.stem == "own" else "foreign")
    with pytest.raises(UserError, match=r"absent does not exist; give a run's workdir, a check"):
        find(str(tmp_path / "absent"))
    with pytest.raises(
        UserError, match=r"othr.pth does not exist \(did you mean other.pth\?\); give"
    ):
        find(str(tmp_path / "othr.pth"))
