"""A path below a run is taken for what it is, or answered with the right one."""

import pytest
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.weights.checkpoints import find_workdir, is_checkpoint


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "runs/mine"
    for step in (5, 10):
        (run / f"checkpoints/{step}/teacher").mkdir(parents=True)
        (run / f"checkpoints/{step}/commit_success.txt").touch()
    (run / "config.json").touch()
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
    assert find_workdir(run / path, which) == (run, step)


def test_what_is_no_place_to_read_from_is_answered_with_one(run):
    step = run / "checkpoints/5"
    with pytest.raises(UserError, match=rf"step '10' is another; give its run, {run}, or no step"):
        find_workdir(step, "10")
    with pytest.raises(UserError, match=rf"is a part of a checkpoint; give the checkpoint, {step}"):
        find_workdir(step / "teacher", "latest")
    for name in ("5.damaged", "5.damaged-2"):
        (run / "checkpoints" / name).mkdir()
        with pytest.raises(UserError, match="was set aside as damaged"):
            find_workdir(run / "checkpoints" / name, "latest")


@pytest.mark.parametrize("made", ["config.json", "checkpoints"])
def test_a_workdir_may_have_the_path_of_a_checkpoint(tmp_path, made):
    nested = epath.Path(tmp_path) / "mine/checkpoints/1"
    nested.mkdir(parents=True)
    assert is_checkpoint(nested)
    (nested / made).mkdir()
    assert not is_checkpoint(nested)
    assert find_workdir(nested, "latest") == (nested, "latest")
