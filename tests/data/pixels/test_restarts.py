"""Rows of a JPEG between its restart markers are those of the whole."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.pixels import restarts
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.resize import Box


def photograph(height, width):
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(height, width, 3)).cumsum(axis=0).cumsum(axis=1)
    return np.uint8(255 * (walk - walk.min()) / np.ptp(walk))


def jpeg(height=400, width=330, **options):
    file = io.BytesIO()
    Image.fromarray(photograph(height, width)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("marked", [{"restart_marker_rows": 1}, {"restart_marker_blocks": 7}])
@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("top", [0, 1, 130, 360])
def test_the_rows_of_a_box_are_those_of_the_whole(subsampling, marked, shrink, top):
    data = jpeg(width=336, subsampling=subsampling, **marked)
    assert b"\xff\xdd" in data  # the interval
    whole = EncodedImage(data, Decoding()).decode(shrink)
    box = Box(top, 20, 40, 50)
    part = EncodedImage(data, Decoding()).decode(shrink, [box])
    assert part.shape == whole.shape
    rows = slice(top // shrink, -(-(top + 40) // shrink))
    np.testing.assert_array_equal(part[rows], whole[rows])
    assert restarts.rows_of(data, top, top + 40) is not None
    assert not part[210 // shrink : 310 // shrink].any()  # which are not decoded


def test_a_window_of_a_file(tmp_path):
    data = jpeg(restart_marker_rows=1)
    whole = EncodedImage(data, Decoding()).decode()
    found = EncodedImage(Excerpt(io.BytesIO(data), box=Box(150, 40, 60, 80)), Decoding()).decode()
    np.testing.assert_array_equal(found, whole[150:210, 40:120])


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg(restart_marker_blocks=5),  # not at the ends of rows
        jpeg(restart_marker_rows=1, progressive=True),
        jpeg(restart_marker_rows=1)[:-2000],
        b"\xff\xd8\xff\xe0\x00\x04ab",
        b"no image",
        b"",
    ],
)
def test_what_has_no_such_rows_is_left_to_the_decoder(data):
    assert restarts.rows_of(data, 10, 20) is None


def test_greys_have_blocks_of_their_own():
    file = io.BytesIO()
    image = Image.fromarray(photograph(200, 120)).convert("L")
    image.save(file, "JPEG", restart_marker_rows=1)
    data, top = restarts.rows_of(file.getvalue(), 90, 100)
    found = np.asarray(Image.open(io.BytesIO(data)))
    whole = np.asarray(Image.open(file))
    np.testing.assert_array_equal(found, whole[top : top + len(found)])
    assert top <= 90 and top + len(found) >= 100 and len(found) < 50
