"""Segmentation in context: what is cut out, colours that tell classes, and the command."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import COLORS, SHAPE, write_voc

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks import in_context_data
from ibot_jax.evaluate.benchmarks.in_context_data import Reader, draw_color
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, find_splits
from ibot_jax.evaluate.common import memory, opening
from ibot_jax.kernels.color_table import Color
from ibot_jax.parallel.shares import all_rows


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("VOC2012"))


def test_whole_images_become_squares(voc):
    _, test = find_splits("voc", epath.Path(voc))
    batches = list(Reader(24, Decoding(), all_rows(4)).whole(test))
    assert [list(batch["valid"]) for batch in batches] == [[True] * 4, [True] * 2 + [False] * 2]
    assert (batches[1]["labels"][2:] == IGNORED).all()
    for index in range(6):
        picture = Image.open(test.images[index]).resize((24, 24), Image.Resampling.BILINEAR)
        truth = Image.fromarray(test.read_truth(index)).resize((24, 24), Image.Resampling.NEAREST)
        batch = batches[index // 4]
        np.testing.assert_array_equal(batch["images"][index % 4], picture)
        np.testing.assert_array_equal(batch["labels"][index % 4], truth)


def test_crops_take_pixels_and_classes_alike(voc, monkeypatch):
    """Colours of pixels that are far from others' are those of their classes; no crop twice."""
    plain = Color(flip=False, jitter=(), gray=False, blur_radius=0.0, solarize=False)
    monkeypatch.setattr(in_context_data, "draw_color", lambda rng: plain)
    train, _ = find_splits("voc", epath.Path(voc))
    reader = Reader(32, Decoding(), all_rows(8))
    batches = list(reader.crops(train, 2, seed=0))
    assert len(batches) == reader.number(2 * len(train)) == 3
    images, labels, valid = (
        np.concatenate([batch[key] for batch in batches]) for key in ("images", "labels", "valid")
    )
    assert valid.sum() == 22 and valid[:22].all()
    assert len({image.tobytes() for image in labels[:22]}) > 20
    for image, truth in zip(images[:22], labels[:22], strict=True):
        inside = np.ones_like(truth, bool)
        for shift in [(y, x) for y in range(-3, 4) for x in range(-3, 4)]:
            inside[3:-3, 3:-3] &= (np.roll(truth, shift, (0, 1)) == truth)[3:-3, 3:-3]
        inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = False
        inside &= truth != IGNORED
        off = np.abs(image[inside].astype(int) - COLORS[truth[inside]])
        assert off.max(initial=0) < 12
    again = next(iter(reader.crops(train, 2, seed=0)))
    np.testing.assert_array_equal(again["images"], images[:8])


def test_colours_change_by_a_tenth_at_the_most():
    rng = np.random.default_rng(0)
    drawn = [dict(draw_color(rng).jitter) for _ in range(400)]
    for name, middle in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        factors = np.array([jitter[name] for jitter in drawn if name in jitter]) - middle
        assert 150 < len(factors) < 250
        assert -0.1 <= factors.min() < -0.09 and 0.09 < factors.max() <= 0.1


FLAGS = ("--layout=voc", "--size=24", "--batch-size=8", "--memory-size=660", "--k=3")


@pytest.mark.slow
def test_the_command_tells_colours_apart(voc, workdir, tmp_path, monkeypatch):
    """Patches of the scenes have one colour each: what a random model remembers of them is right.

    All 30 patches of 22 crops; VOC's void is background in the memory, and not measured.
    """
    monkeypatch.setattr(in_context_data, "_SCALE", (1.0, 1.0))  # so that patches stay patches
    monkeypatch.setattr(in_context_data, "_ASPECT", (1.5, 1.5))
    plain = Color(flip=False, jitter=(), gray=False, blur_radius=0.0, solarize=False)
    monkeypatch.setattr(in_context_data, "draw_color", lambda rng: plain)
    flags = [f"--from={workdir}", f"--data={voc}", f"--out={tmp_path}", "--pictures=2", *FLAGS]
    assert command.main(["incontext", *flags]) == 0
    report = json.loads((tmp_path / "incontext.json").read_text())
    (row,) = report["rows"]
    assert row["patches"] == 660 and row["images"] == 6
    assert report["metrics"]["pixel_accuracy"] > 80
    pictures = sorted((tmp_path / "incontext").iterdir())
    assert [path.stem for path in pictures] == ["2007_val0", "2007_val1"]
    assert Image.open(pictures[0]).size == (3 * SHAPE[1], SHAPE[0])
    assert report["settings"]["size"] == 24 and report["settings"]["temperature"] == 0.02

    def gone(*args):
        raise AssertionError("is computed again")

    monkeypatch.setattr(Reader, "crops", gone)  # the memory is there, whoever votes
    assert command.main(["incontext", *flags, "--k=5"]) == 0
    monkeypatch.setattr(Reader, "whole", lambda *args: iter(()))  # and so are the counts
    assert command.main(["incontext", *flags]) == 0
    assert json.loads((tmp_path / "incontext.json").read_text())["metrics"] == report["metrics"]


def ignore_all(root):
    for path in (root / "SegmentationClass").iterdir():
        Image.fromarray(np.full(SHAPE, IGNORED, np.uint8)).save(path)


def grow_image(root):
    Image.new("RGB", (9, 9)).save(next((root / "JPEGImages").glob("*train*")))


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (None, ["--size=18"], "--size=18 is no multiple of the patch size, 4"),
        (None, ["--size=80000"], "--size=80000 --batch-size=8 takes "),
        (None, ["--memory-size=21"], "--memory-size=21 is less than a patch of each of 22 images"),
        (None, ["--k=700"], "--k=700 is more than the 660 patches that are remembered"),
        (None, ["--max-images=2", "--k=145"], "--k=145 is more than the 144 patches that are"),
        (None, ["--layout=ade20k"], "images/training is no folder"),
        (grow_image, [], "has 9x9 pixels, but its annotation 32x48"),
        (ignore_all, [], "SegmentationClass has no annotated pixel"),
    ],
)
def test_mistakes_are_one_line_and_status_2(mistake, tmp_path, change, flags, message):
    root = write_voc(tmp_path / "VOC2012")
    if change:
        change(root)
    assert message in mistake("incontext", root, *FLAGS, *flags)


def test_a_memory_that_has_no_room_is_told_before_it_is_filled(mistake, voc, monkeypatch):
    """24 rows of 30 patches: float32 features of 16, and 21 counts of 16 bits each."""
    monkeypatch.setattr(opening, "check_images", lambda *args: None)
    monkeypatch.setattr(memory, "host_memory", lambda: 24 * 30 * (64 + 42) - 1)
    told = mistake("incontext", voc, *FLAGS)
    assert "--memory-size=660 takes " in told and "of memory at the least" in told
    monkeypatch.setattr(memory, "host_memory", lambda: 24 * 30 * (64 + 42))
    assert "--k=999 is more" in mistake("incontext", voc, *FLAGS, "--k=999")
