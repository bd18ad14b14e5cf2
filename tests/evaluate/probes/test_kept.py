"""What a task has kept is found again by whatever command finds the same."""

import pytest
from planes import write_planes
from scenes import write_patterns, write_voc

from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.export import export

CROPS = ("--size=32", "--crop=24", "--stride=12", "--ratios=1,1.5", "--steps=1")
# By task: its flags, those that change nothing of what is kept, and some that do.
TASKS = {
    "linear": (("--features=pixels", "--size=8"), ("--workers=2",), ("--scale=0.5",)),
    "attentive": (("--steps=2",), ("--workers=2",), ("--flip=0",)),
    "segmentation": (
        ("--layout=voc", *CROPS),
        ("--pictures=3", "--stride=24", "--scales=0.5,1", "--mirrored=on"),
        ("--lr=0.5",),
    ),
    "upernet": (("--layout=voc", *CROPS, "--blocks=1,1,2,2"), ("--pictures=3",), ("--seed=1",)),
    "depth": (("--layout=nyu", "--crop", "16", "24", "--blocks=1"), (), ("--seed=1",)),
    "incontext": (
        ("--layout=voc", "--size=24", "--memory-size=660"),
        ("--pictures=3", "--k=3", "--temperature=1"),
        ("--epochs=1",),
    ),
    "spair": (("--size=32",), ("--pictures=3", "--batch-size=16"), ("--size=48",)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, images):
    root = tmp_path_factory.mktemp("data")
    scenes = write_voc(root / "VOC2012")
    written = {"depth": write_planes(root / "nyu"), "spair": write_patterns(root / "SPair-71k")}
    written |= dict.fromkeys(("linear", "attentive"), f"folder:{images}")
    return dict.fromkeys(TASKS, scenes) | written


@pytest.mark.parametrize("task", TASKS)
def test_a_key_depends_on_what_determines_the_outcome(task, data, workdir, tmp_path, monkeypatch):
    """Not on how the model is called, or who makes the images."""

    class Found(Exception):
        pass

    def found(kept):
        raise Found(kept.path)

    monkeypatch.setattr(Kept, "read", found)
    monkeypatch.chdir(tmp_path)  # where features are kept
    export(workdir, str(tmp_path / "model.npz"), to="npz")
    flags, harmless, others = TASKS[task]

    def name(*given, source=workdir):
        common = [f"--from={source}", f"--data={data[task]}", f"--out={tmp_path}", *flags]
        with pytest.raises(Found) as raised:
            command._run([task, *common, "--batch-size=8", *given])
        return raised.value.args[0].name

    first = name()
    assert name(*harmless, source=tmp_path / "model.npz") == first
    assert name(*others) != first
