"""Windows of slides: where there is tissue, on a grid, and inside, as a list that is a source."""

import csv

import numpy as np
import pytest
import tifffile

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.sources.opening import open_source
from ibot_jax.tools import windows

pytest.importorskip("openslide")


@pytest.fixture
def slide(tmp_path):
    """A white slide of 384 x 512 pixels and two levels, red from row 128 and column 192 on."""
    whole = np.full((384, 512, 3), 240, np.uint8)
    whole[128:, 192:] = 200, 60, 90
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for level, pixels in enumerate((whole, whole[::2, ::2])):
            options = dict(photometric="rgb", tile=(64, 64), metadata=None)
            writer.write(pixels, subfiletype=level, **options)
    return tmp_path / "a.tif"


def listed(slide, *flags):
    out = slide.parent / "lists" / "windows.csv"
    out.parent.mkdir(exist_ok=True)
    assert windows.main([str(slide), f"--out={out}", *flags]) == 0
    with out.open(newline="") as file:
        return out, [(row["x"], row["y"]) for row in csv.DictReader(file)]


def places(rows, columns):
    return [(str(x), str(y)) for y in rows for x in columns]


def test_windows_that_hold_tissue_are_listed(slide):
    assert listed(slide, "--size=64")[1] == places(range(128, 384, 64), range(192, 512, 64))
    # Of the windows from column 128 on half are tissue.
    for share, first in ((0.4, 128), (0.6, 256)):
        _, found = listed(slide, "--size=128", f"--tissue={share}")
        assert found == places((128, 256), range(first, 512, 128))
    assert len(listed(slide, "--size=64", "--tissue=0")[1]) == 6 * 8


def test_strides_and_levels_are_of_windows_inside(slide):
    _, found = listed(slide, "--size=100", "--stride=50", "--tissue=0")
    assert found == places(range(0, 285, 50), range(0, 413, 50))
    # In pixels of level 0 a window of level 1 is twice as large.
    _, found = listed(slide, "--size=64", "--level=1", "--tissue=0")
    assert found == places(range(0, 384, 128), range(0, 512, 128))


def test_a_list_is_a_source_of_images(slide):
    out, found = listed(slide, "--size=64", "--level=1", "--tissue=0.9")
    source = open_source(f"list:{out}", "train")
    assert len(source) == len(found) == 4
    for index in range(len(source)):
        pixels = EncodedImage(source.fetch(source.locate(index)[0]), Decoding()).decode()
        np.testing.assert_array_equal(pixels, np.broadcast_to((200, 60, 90), (64, 64, 3)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--level=2"], "--level=2 is none of the slide's 2 levels"),
        (["--tissue=2"], "--tissue=2.0 is no share from 0 to 1"),
        (["--size=400"], "--size=400 and --level=0 leave no window"),
        (["/nowhere.svs"], "/nowhere.svs is no slide that OpenSlide reads"),
    ],
)
def test_a_mistake_is_one_line(slide, flags, message, capsys):
    out = slide.parent / "windows.csv"
    assert windows.main([*flags, str(slide), f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()
