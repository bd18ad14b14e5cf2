"""Crops lie where torchvision's do."""

import numpy as np
import pytest
from dice import Dice

from ibot_jax.data.draw import crops


def draw_crops(height, width, scale, draws=20_000):
    rng = np.random.default_rng(0)
    return np.array(
        [crops.draw_crop(rng, height, width, scale, (3 / 4, 4 / 3)) for _ in range(draws)]
    )


@pytest.mark.parametrize("kind", ["global", "local"])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224)])
def test_crops_have_the_recorded_distribution(view_statistics, kind, height, width):
    scale = {"global": (0.25, 1.0), "local": (0.05, 0.25)}[kind]
    top, left, crop_height, crop_width = draw_crops(height, width, scale).T
    key = f"crop/{kind}/{height}x{width}"
    steps = np.linspace(0, 1, 21)
    area = np.quantile(crop_height * crop_width / (height * width), steps)
    aspect = np.quantile(np.log(crop_width / crop_height), steps)
    corner = [top.mean(), left.mean()]
    # About four standard errors of the difference of two samples of 20,000.
    np.testing.assert_allclose(area, view_statistics[f"{key}/area_quantiles"], atol=0.012)
    np.testing.assert_allclose(aspect, view_statistics[f"{key}/log_aspect_quantiles"], atol=0.011)
    np.testing.assert_allclose(corner, view_statistics[f"{key}/top_left_mean"], atol=3)


@pytest.mark.parametrize(
    ("margin", "sides", "expected"),
    [
        (2, (95, 400), 1),
        (2, (400, 127), 1),
        (2, (128, 400), 2),  # half of it is twice the view
        (2, (256, 256), 4),
        (2, (512, 700), 8),
        (2, (5000, 5000), 8),
        (1, (64, 64), 2),
        (1, (63, 900), 1),
        (0, (5000, 5000), 1),
    ],
)
def test_an_image_is_decoded_smaller_where_its_smallest_crop_stays_large(margin, sides, expected):
    boxes = [crops.Box(0, 0, 9000, 9000), crops.Box(0, 0, *sides)]
    assert crops.largest_shrink(boxes, [(32, 32), (32, 32)], margin) == expected


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 100, crops.Box(0, 43, 10, 13)),  # too wide: as wide as 4/3 allows, in the middle
        (100, 10, crops.Box(43, 0, 13, 10)),  # too high
        (1, 1, crops.Box(0, 0, 1, 1)),
    ],
)
def test_a_crop_that_never_fits_becomes_central(height, width, box):
    rng = np.random.default_rng(0)
    assert crops.draw_crop(rng, height, width, (4.0, 4.0), (3 / 4, 4 / 3)) == box


@pytest.mark.parametrize(
    ("draws", "box", "limits"),
    [
        # 100 x 200 pixels; shares of 1/4 to 1, as wide as high to four times as wide.
        ((0.0, 0.0, 29, 129), crops.Box(29, 129, 71, 71), [30, 130]),
        ((1.0, 0.5, 0, 0), crops.Box(0, 0, 100, 200), [1, 1]),  # all of it fits
        ((1 / 3, 1.0, 1, 2), crops.Box(1, 2, 50, 200), [51, 1]),
        # The first one is 141 pixels high, the second 283 wide: neither fits.
        ((1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 3, 4), crops.Box(3, 4, 71, 71), [30, 130]),
    ],
)
def test_a_crop_follows_from_its_draws(draws, box, limits):
    dice = Dice(*draws)
    assert crops.draw_crop(dice, 100, 200, (0.25, 1.0), (1.0, 4.0)) == box
    assert dice.left == [] and dice.limits == limits


def test_half_of_the_aspect_ratios_lie_below_the_geometric_mean_of_the_bounds():
    dice = Dice(0.0, 0.5, 10, 20)  # of 1/2 to 4: the square root of 2; 5000 pixels are 84 x 59
    assert crops.draw_crop(dice, 100, 200, (0.25, 1.0), (0.5, 4.0)) == crops.Box(10, 20, 59, 84)


def test_a_crop_has_a_pixel_and_is_tried_ten_times():
    dice = Dice(0.0, 0.0, 1.0, 0.0, 2, 3)  # 0.4 pixels, then one
    assert crops.draw_crop(dice, 8, 8, (0.16 / 64, 1 / 64), (1.0, 1.0)) == crops.Box(2, 3, 1, 1)
    dice = Dice(0.0, 1.0, 1.0, 0.0, 2, 3)  # 1.1 wide and 0.3 high, then 1 x 1
    assert crops.draw_crop(dice, 8, 8, (0.3 / 64, 1 / 64), (1.0, 4.0)) == crops.Box(2, 3, 1, 1)
    dice = Dice(0.0, 0.0, 1.0, 1.0, 2, 3)  # 0.3 wide and 1.1 high, then 1 x 1
    assert crops.draw_crop(dice, 8, 8, (0.3 / 64, 1 / 64), (0.25, 1.0)) == crops.Box(2, 3, 1, 1)
    dice = Dice(*[0.0] * 20)
    assert crops.draw_crop(dice, 30, 40, (0.0, 0.0), (3 / 4, 4 / 3)) == crops.Box(0, 0, 30, 40)
    assert dice.left == [] and dice.limits == []


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((30, 40), crops.Box(0, 0, 30, 40)),  # just as wide as allowed
        ((40, 30), crops.Box(0, 0, 40, 30)),  # as high
        ((40, 40), crops.Box(0, 0, 40, 40)),
        ((30, 50), crops.Box(0, 5, 30, 40)),
        ((51, 30), crops.Box(5, 0, 40, 30)),
    ],
)
def test_the_central_crop_is_the_largest_of_an_allowed_shape(size, box):
    assert crops.draw_crop(Dice(*[0.0] * 20), *size, (9.0, 9.0), (3 / 4, 4 / 3)) == box


@pytest.mark.parametrize("size", [(16, 64), (64, 16)])
def test_sides_of_crops_are_compared_with_those_of_their_views(size):
    box = crops.Box(0, 0, 4 * size[0], 4 * size[1])
    assert crops.largest_shrink([box], [size], 2) == 2
    with pytest.raises(ValueError):
        crops.largest_shrink([box], [size, size], 2)
