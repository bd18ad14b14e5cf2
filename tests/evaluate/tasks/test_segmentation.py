"""Segmentation with features that tell classes apart, and the whole command with a tiny model."""

import json
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import SHAPE, write_voc
from scipy.ndimage import zoom

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, Squares, find_splits
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes.patch_heads import Linear
from ibot_jax.evaluate.probes.segmenting import Frozen, count_classes, fit_linear
from ibot_jax.evaluate.tasks.segmentation import make_patch_fn
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("VOC2012"))


def patch_colors(params, images):
    """Features without a place: the mean colour of each patch of 4 x 4 pixels."""
    batch, size, _, channels = images.shape
    patches = images.astype(jnp.float32).reshape(batch, size // 4, 4, size // 4, 4, channels)
    return params * (patches.mean(axis=(2, 4)) / 128 - 1)


def test_blocks_of_other_stages_are_brought_to_the_finest_grid():
    rng = np.random.default_rng(0)
    fine, coarse = (rng.normal(size=(2, side, side, width)) for side, width in ((6, 3), (3, 5)))
    asked = []

    def layers(params, images, wanted):
        asked.extend(wanted)
        return [SimpleNamespace(patches=jnp.asarray(x, jnp.float32)) for x in (fine, coarse)]

    found = make_patch_fn(SimpleNamespace(layers=layers), (7, 9))({}, None)
    assert asked == [7, 9]
    np.testing.assert_allclose(found[..., :3], fine, rtol=1e-6)
    enlarged = zoom(coarse, (1, 2, 2, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found[..., 3:], enlarged, atol=1e-5)


@pytest.fixture
def frozen():
    """The squares are as wide as the images, so that patches stay patches."""
    squares = Squares(48, Decoding(), all_rows(8))
    return Frozen(patch_colors, jnp.float32(1), squares, make_mesh())


def test_colours_are_told_apart(voc, frozen):
    """Up to pixels at the borders of patches, which interpolation and resizing move."""
    train, test = find_splits("voc", epath.Path(voc))
    fitted = fit_linear(frozen, train, epochs=30, learning_rate=0.3, seed=0)
    counts = count_classes(frozen, fitted, test)
    assert counts.sum() == 6 * (SHAPE[0] - 2) * SHAPE[1]  # the ignored rows do not count
    found = mean_iou.scores(counts)
    assert found["miou"] > 90 and found["pixel_accuracy"] > 95


def test_every_annotated_pixel_counts_at_its_own_size(voc, frozen):
    """A head that always says class 1 has the IoU of that class by hand."""
    _, test = find_splits("voc", epath.Path(voc))
    constant = Linear(jnp.zeros((3, 21)), jnp.eye(21)[1])
    counts = count_classes(frozen, constant, test)
    truths = [test.read_truth(index) for index in range(6)]
    expected = [sum((truth == label).sum() for truth in truths) for label in range(21)]
    np.testing.assert_array_equal(counts[:, 1], expected)
    assert counts.sum() == sum(expected)


def test_batches_hold_every_image_once_in_order(voc):
    train, _ = find_splits("voc", epath.Path(voc))
    order = np.random.default_rng(1).permutation(len(train))
    batches = list(Squares(16, Decoding(), all_rows(4)).batches(train, order))
    assert [batch["images"].shape for batch in batches] == [(4, 16, 16, 3)] * 3
    labels = np.concatenate([batch["labels"] for batch in batches])
    for row, index in enumerate(order):
        resized = Image.fromarray(train.read_truth(index)).resize(
            (16, 16), Image.Resampling.NEAREST
        )
        np.testing.assert_array_equal(labels[row], resized)
    assert (labels[len(order) :] == IGNORED).all()


@pytest.mark.slow
def test_the_command_measures_a_linear_layer(voc, workdir, tmp_path):
    flags = [f"--from={workdir}", f"--data={voc}", "--layout=voc", f"--out={tmp_path}"]
    flags += ["--size=24", "--batch-size=8", "--epochs=20", "--lr=0.1", "--blocks=2"]
    assert command.main(["segmentation", *flags]) == 0
    report = json.loads((tmp_path / "segmentation.json").read_text())
    (row,) = report["rows"]
    assert row == {"images": 6, **report["metrics"]}
    assert row["pixel_accuracy"] > 60  # a random model keeps colours apart


def remove_annotation(root):
    (root / "SegmentationClass/a.png").unlink()


def grow_image(root):
    Image.new("RGB", (9, 9)).save(root / "JPEGImages/a.jpg")


def ignore_all(root):
    Image.fromarray(np.full((8, 8), IGNORED, np.uint8)).save(root / "SegmentationClass/a.png")


def write_two(root):
    """Writes an image to train on, a, and one to test on, b; returns the flags that name them."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name, part, grey in (("a", "train", 0), ("b", "val", 200)):
        (root / f"ImageSets/Segmentation/{part}.txt").write_text(f"{name}\n")
        Image.new("RGB", (8, 8), (grey, 0, 0)).save(root / f"JPEGImages/{name}.jpg")
        Image.new("L", (8, 8)).save(root / f"SegmentationClass/{name}.png")
    return [f"--data={root}", f"--out={root}-out", "--layout=voc", "--size=8", "--batch-size=8"]


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (remove_annotation, [], "a.png is absent, one of 1 that "),
        (grow_image, [], "a.jpg has 9x9 pixels, but its annotation 8x8"),
        (ignore_all, [], "SegmentationClass has no annotated pixel"),
        (None, ["--size=18"], "--size=18 is no multiple of the patch size, 4"),
        (None, ["--batch-size=3"], "--batch-size=3 is no multiple of the 8 devices"),
        (None, ["--blocks=3"], "--blocks=3 is more than the 2 of the model"),
        (None, ["--layout=ade20k"], "images/training is no folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(workdir, tmp_path, capsys, change, flags, message):
    common = [f"--from={workdir}", *write_two(tmp_path / "data")]
    if change:
        change(tmp_path / "data")
    assert command.main(["segmentation", *common, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_images_that_are_trained_on_are_told(workdir, tmp_path, capsys):
    flags = [f"--from={workdir}", *write_two(tmp_path / "data"), "--epochs=1"]
    images = tmp_path / "data/JPEGImages"
    shutil.copy(images / "a.jpg", images / "b.jpg")
    assert command.main(["segmentation", *flags]) == 0
    assert "warning: 1 of the 1 images of --data=" in capsys.readouterr().err
    report = json.loads((tmp_path / "data-out/segmentation.json").read_text())
    assert report["metrics"]["shared_images"] == 1
