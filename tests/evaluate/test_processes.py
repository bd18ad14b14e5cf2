"""Two processes, whose devices the mesh takes in turn, find what one finds."""

import json

import cli
import jax
import numpy as np
import pytest
from processes import Run
from runs import FINETUNING, restored
from safetensors.numpy import load_file
from scenes import write_classes, write_copies, write_patterns, write_voc

from ibot_jax.export import export

pytestmark = pytest.mark.slow

STEPS = 10
PRETRAINING = (
    f"--config={cli.ROOT / 'configs/digits.py:ibot'}",
    *cli.TINY[1:],
    "--config.mesh.fsdp=2",
    "--config.dtype=float64",  # sums over devices are formed in another order
    "--config.probe.max_steps=0",
)
TASKS = {
    "knn": ("--k=1,7", "--temperature=0.5"),
    "linear": ("--lr=0.03,3", "--epochs=2", "--blocks=2", "--features=cls", "--scale=0.5"),
    "attentive": ("--steps=6", "--lr=0.01,0.1", "--weight-decay=1e-3", "--scale=0.5"),
    "logistic": ("--l2=1e-3", "--max-steps=20"),
    "segmentation": (
        *("--layout=voc", "--size=32", "--crop=24", "--stride=12", "--ratios=1,1.5"),
        *("--steps=3", "--batch-size=8", "--scales=1,1.3", "--mirrored=on"),
    ),
    "incontext": ("--layout=voc", "--size=24", "--memory-size=440", "--k=3"),
    "spair": ("--size=32",),
    "copydetection": ("--size=16",),
    "finetune": (
        "--config.batch_size=8",
        "--config.duration=1 epochs",  # of 3 steps
        "--config.optim.warmup=1 steps",
        "--config.data.workers=1",
        "--config.log_every=1 steps",
    ),
}


def commands(folder, workdir, data):
    """Yields what is measured of a model, and a training; `folder` is where all is written."""
    for task, flags in TASKS.items():
        cache = [f"--cache={folder / 'cache'}"] if task in ("knn", "linear", "logistic") else []
        given = [f"--from={workdir}", f"--out={folder / 'out'}", "--batch-size=16"]
        yield ["ibot_jax.evaluate.__main__", task, *given, *data[task], *cache, *flags]
    yield ["ibot_jax.main", *PRETRAINING, f"--workdir={folder / 'run'}"]


@pytest.fixture(scope="module")
def folders(workdir, tmp_path_factory):
    """Returns what one process with 8 devices has left, and what two with 4 each have."""
    root = tmp_path_factory.mktemp("processes")
    images, scenes = write_classes(root / "images"), write_voc(root / "VOC2012")
    copies = write_copies(root / "copies")
    named = root / "named.txt"
    paths = [path for name in "abc" for path in sorted(images.glob(f"train/{name}/*"))[:4]]
    named.write_text("".join(f"{path.parent.name}/{path.name}\n" for path in paths))
    data = {task: [f"--data=folder:{images}"] for task in TASKS} | {
        "segmentation": [f"--data={scenes}"],
        "incontext": [f"--data={scenes}"],
        "spair": [f"--data={write_patterns(root / 'SPair-71k')}"],
        "copydetection": [f"--data={copies}", f"--distractors={copies / 'others'}"],
    }
    data["logistic"].append(f"--labels={named}")
    found = []
    for number in (1, 2):
        folder = root / str(number)
        texts = json.dumps(list(commands(folder, workdir, data)))
        statuses, outs, errors = Run(number, texts, module="in_turn").finish()
        assert statuses == [0] * number, errors
        assert not "".join(outs[1:])  # the first process speaks for all
        found.append(folder)
    return found


def test_a_training_is_the_same(folders):
    one, two = (cli.rows(folder / "run") for folder in folders)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)  # some are float32 whatever the dtype
    one, two = (restored(folder / "run", STEPS) for folder in folders)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), one, two)


def test_its_export_is_the_same(folders):
    arrays = []
    for folder in folders:
        export(str(folder / "run"), str(folder / "model.safetensors"), to="safetensors")
        arrays.append(load_file(folder / "model.safetensors"))
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_allclose(array, arrays[1][name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_measured_is_the_same(folders, task):
    one, two = (json.loads((folder / f"out/{task}.json").read_text())["rows"] for folder in folders)
    assert one == two


def test_features_are_those_of_the_images_in_their_order(folders):
    kept = [sorted((folder / "cache").iterdir()) for folder in folders]
    assert [path.name for path in kept[0]] == [path.name for path in kept[1]] and kept[0]
    for ours, theirs in zip(*kept, strict=True):
        for name in ("rows", "labels"):
            np.testing.assert_array_equal(
                np.load(ours / f"{name}.npy"), np.load(theirs / f"{name}.npy")
            )
        ours, theirs = (np.fromfile(path / "features.f32", np.float32) for path in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_fine_tuning_is_the_same(folders):
    one, two = (cli.rows(folder / "out/finetune") for folder in folders)
    assert len(one) == 4  # 3 steps and a test
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    one, two = (restored(folder / "out/finetune", 3, FINETUNING)["params"] for folder in folders)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)
