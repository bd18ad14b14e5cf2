"""Central views are those of torchvision's Resize and CenterCrop on images of Pillow."""

import json

import numpy as np
import pytest
from foreign_views import noise
from PIL import Image

from ibot_jax.data.draw.central import (
    FILTERS,
    CentralView,
    view_of_old_export,
    view_of_run,
)


def test_the_view_is_the_middle_of_the_resized_image():
    columns = np.repeat(np.arange(100, dtype=np.uint8)[None], 50, axis=0)  # [50, 100]
    view = np.asarray(CentralView((40, 30), (50, 50)).cut(Image.fromarray(columns)))
    np.testing.assert_array_equal(view, columns[5:45, 35:65])
    assert CentralView((100, 200), (100, 100)).cut(Image.fromarray(columns)).size == (200, 100)


def test_the_view_of_a_small_image_is_padded():
    view = np.asarray(CentralView((4, 4), (2, 2)).cut(Image.new("L", (4, 2), 255)))
    np.testing.assert_array_equal(view[:, 0], [0, 255, 255, 0])


@pytest.mark.parametrize(("rounding", "left"), [("even", 2), ("down", 1)])
def test_a_centre_between_two_pixels(rounding, left):
    columns = np.repeat(np.arange(7, dtype=np.uint8)[None], 4, axis=0)
    view = CentralView((4, 4), (4, 4), rounding=rounding).cut(Image.fromarray(columns))
    assert np.asarray(view)[0, 0] == left  # 7 - 4 = 3 pixels are left over


@pytest.mark.parametrize("name", FILTERS)
def test_squashed_images_are_those_of_pillow(name):
    image = noise(23, 31)
    view = CentralView((16, 16), (16, 16), fit="squash", interpolation=name)
    expected = image.resize((16, 16), getattr(Image.Resampling, name.upper()))
    np.testing.assert_array_equal(np.asarray(view.cut(image)), np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((224, 224), 256, (256, 256)),
        ((16, 32), 36, (18, 36)),  # an eighth more on both sides
        ((96, 160), 183, (109, 183)),
    ],
)
def test_a_run_resizes_in_proportion_to_its_view(size, resize, expected):
    assert view_of_run(size, resize) == CentralView(size, expected)


def test_other_sizes_keep_the_proportion():
    assert view_of_run((224, 224), 256).of_size((320, 320)).resize == (366, 366)
    assert view_of_run((224, 224), 256).of_size((112, 224)).resize == (128, 256)


def test_old_exports_say_the_shorter_side_or_nothing():
    assert view_of_old_export([16, 32], 36).resize == (36, 36)
    assert view_of_old_export([224, 224], None).resize == (256, 256)


def test_json_there_and_back():
    view = CentralView((16, 32), (18, 36), "squash", "lanczos", "down")
    assert CentralView.from_json(json.loads(json.dumps(view.to_json()))) == view


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"size": [16], "resize": [16, 16]},
        {"size": [16, 16], "resize": [0, 16]},
        {"size": [16, 16], "resize": [16.5, 16]},
        {"size": 16, "resize": [16, 16]},
        {"size": [16, 16], "resize": [16, 16], "fit": "cut"},
        {"size": [16, 16], "resize": [16, 16], "interpolation": "best"},
        {"size": [16, 16], "resize": [16, 16], "interpolation": ["bicubic"]},
        {"size": [16, 16], "resize": [16, 16], "rounding": "up"},
        {"size": [16, 16], "resize": [16, 16], "pad": 1},
    ],
)
def test_what_is_no_view_is_refused(wrong):
    with pytest.raises(ValueError, match="describes no view"):
        CentralView.from_json(wrong)
