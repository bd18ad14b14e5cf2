"""Pictures that the first process cannot write end the others, too."""

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import SHAPE, write_voc

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import segmentation_pictures
from ibot_jax.evaluate.benchmarks.segmentation_data import find_splits
from ibot_jax.evaluate.benchmarks.segmentation_pictures import Pictures, as_mask, colors
from ibot_jax.parallel import agreement


@pytest.fixture
def pictures(tmp_path):
    _, test = find_splits("voc", epath.Path(write_voc(tmp_path / "VOC2012")))
    return Pictures(epath.Path(tmp_path / "out"), 1, test, Decoding())


def test_a_mistake_of_the_first_process_is_everyones(pictures, tmp_path, monkeypatch):
    found = np.zeros(SHAPE, np.uint8)
    monkeypatch.setattr(segmentation_pictures, "is_first", lambda: False)
    monkeypatch.setattr(agreement, "gather", lambda own: [b"\0process 0: the disk is full", own])
    with pytest.raises(UserError, match="process 0: the disk is full"):
        pictures.write(0, found)
    monkeypatch.setattr(agreement, "gather", lambda own: pytest.fail("is asked of no one"))
    pictures.write(1, found)  # is not wanted
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_told(pictures, tmp_path, monkeypatch):
    found, told = np.zeros(SHAPE, np.uint8), []
    monkeypatch.setattr(agreement, "gather", lambda own: told.append(own) or [own])
    pictures.write(0, found)
    assert Image.open(tmp_path / "out/2007_val0.png").size == (3 * SHAPE[1], SHAPE[0])
    (tmp_path / "out/2007_val0.png").unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(UserError, match="cannot be written"):
        pictures.write(0, found)
    assert told[0] == b"" and b"cannot be written" in told[1]


def test_what_was_found_is_shown_at_the_size_of_the_image(pictures, tmp_path):
    """Beside the image and its annotation, each pixel that of the nearest."""
    found = np.array([[1, 2], [0, 3]], np.uint8)
    pictures.write(0, found)
    sheet = np.asarray(Image.open(tmp_path / "out/2007_val0.png"))
    height, width = SHAPE
    whole = found.repeat(height // 2, axis=0).repeat(width // 2, axis=1)
    np.testing.assert_array_equal(sheet[:, 2 * width :], colors(21)[whole])
    annotated = np.asarray(Image.open(tmp_path / "VOC2012/SegmentationClass/2007_val0.png"))
    np.testing.assert_array_equal(sheet[:, width : 2 * width], colors(21)[annotated])


def test_masks_are_numbers_that_colours_show():
    found = np.array([[0, 1], [2, 20]], np.uint8)
    image = as_mask(found, 21)
    np.testing.assert_array_equal(np.asarray(image), found)
    assert len({tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)}) == 4
