"""SPair-71k: patterns that are moved are found where they went, and the whole command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import POINTS, pattern, write_patterns, write_spair

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.benchmarks.spair_data import find_pairs
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.tasks import spair
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows

SIDE = 32  # pixels


@pytest.fixture
def moved(tmp_path):
    return write_patterns(tmp_path / "SPair-71k")


def colors_of_patches(params, images):
    """Features without a place: the mean colour of each patch of 4 x 4 pixels."""
    batch, size, _, channels = images.shape
    patches = images.astype(jnp.float32).reshape(batch, size // 4, 4, size // 4, 4, channels)
    return params * (patches.mean(axis=(2, 4)) - 128)


def test_what_is_moved_is_found_to_the_pixel(moved):
    pairs = find_pairs(epath.Path(moved), "test", "large")
    assert [pair.category for pair in pairs] == ["bus"] * 4 + ["cat"] * 8
    matcher = spair.Matcher(
        colors_of_patches, jnp.float32(1), SIDE, Decoding(), all_rows(8), make_mesh()
    )
    found = list(matcher.find(pairs))
    assert len(found) == 12
    for pair, points in zip(pairs, found, strict=True):
        np.testing.assert_array_equal(points, pair.target.points)


def test_an_interrupted_search_goes_on(moved, tmp_path, monkeypatch):
    """After four of twelve pairs, which are then not looked at again."""
    monkeypatch.setattr(spair, "_KEPT_EVERY", 4)
    pairs = find_pairs(epath.Path(moved), "test", "large")
    looked = []

    def find(some):
        for pair in some:
            if len(looked) == 6:
                looked.append(None)
                raise KeyboardInterrupt
            looked.append(pair)
            yield pair.target.points

    kept = Kept(str(tmp_path), "spair", {"of": "this"})
    with pytest.raises(KeyboardInterrupt):
        spair.search(find, pairs, kept)
    found = spair.search(find, pairs, kept)
    assert looked[:6] == pairs[:6] and looked[7:] == pairs[4:]
    for points, pair in zip(found, pairs, strict=True):
        np.testing.assert_array_equal(points[: len(pair.target.points)], pair.target.points)
    np.testing.assert_array_equal(spair.search(None, pairs, kept), found)
    with pytest.raises(UserError, match=r"spair-\w+\.npz is damaged \(points are .*; remove it"):
        spair.search(find, pairs[:8], kept)


def test_shares_are_of_images_points_and_categories():
    """Two of three and none of one point at the first alpha, all at the others."""
    first = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    second = np.array([[0], [1], [1]], bool)
    *categories, every = spair.summary(["cat", "bus"], [first, second])
    assert [row["category"] for row in categories] == ["bus", "cat"]
    assert every["images_0.05"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert every["points_0.05"] == 50 and every["points_0.1"] == every["images_0.15"] == 100
    assert (every["pairs"], every["points"]) == (2, 4)
    assert categories[0]["points_0.05"] == 0


@pytest.mark.slow
def test_the_command_finds_images_in_themselves(workdir, tmp_path):
    """Whatever the model, of images of several sizes, of every other pair; and draws two."""
    pairs = []
    for number, (height, width) in enumerate(((32, 32), (28, 28), (24, 40), (28, 28), (40, 28))):
        image = f"{number}.png", pattern(number, height, width)
        pairs.append(("cow", image, image, POINTS, POINTS))
    data = write_spair(tmp_path / "SPair-71k", pairs)
    out = tmp_path / "out"
    flags = [f"--from={workdir}", f"--data={data}", f"--out={out}", "--batch-size=8"]
    assert command.main(["spair", *flags, "--size=32", "--pictures=2", "--max-pairs=3"]) == 0
    report = json.loads((out / "spair.json").read_text())
    assert [row["category"] for row in report["rows"]] == ["cow", "all"]
    assert report["rows"][-1]["points"] == 12
    assert all(value == 100 for value in report["metrics"].values())
    assert {"images_0.1", "points_0.1", "categories_0.1"} <= report["metrics"].keys()
    pictures = sorted((out / "spair").iterdir())
    assert [path.name for path in pictures] == ["1-cow.png", "2-cow.png"]
    assert Image.open(pictures[1]).size == (80, 24)


def forget_listing(root):
    (root / "Layout/large/test.txt").unlink()


def forget_pair(root):
    next((root / "PairAnnotation/test").iterdir()).unlink()


def annotate(**change):
    def mend(root):
        for path in (root / "PairAnnotation/test").iterdir():
            path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return mend


def cut_off(root):
    for path in (root / "PairAnnotation/test").iterdir():
        path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (forget_listing, [], "Layout/large/test.txt is absent: the names of the pairs of SPair"),
        (forget_pair, [], ".json is absent, which Layout asks for; see cvlab.postech.ac.kr"),
        (cut_off, [], "is no annotation of a pair (JSONDecodeError"),
        (annotate(trg_kps=[[1, 1]]), [], "keypoints; both images of a pair have the same"),
        (annotate(trg_bndbox=[5, 5, 5, 9]), [], "has the box [5, 5, 5, 9], which holds nothing"),
        (annotate(src_imsize=[16, 32, 3]), [], "has a keypoint outside of a"),
        (annotate(src_imsize=[48, 32, 3]), [], "has 32x32 pixels, but its annotations say 32x48"),
        (annotate(src_imname="z.png"), [], "z.png is absent"),
        (None, ["--size=30"], "--size=30 is no multiple of the patch size, 4"),
        (None, ["--size=80000"], "--size=80000 --batch-size=8 takes "),
        (None, ["--split=trn"], "Layout/large/trn.txt is absent"),
    ],
)
def test_mistakes_are_one_line_and_status_2(mistake, moved, change, flags, message):
    if change:
        change(moved)
    assert message in mistake("spair", moved, "--size=32", "--batch-size=8", *flags)
