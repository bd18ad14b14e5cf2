"""Crops lie where torchvision's do."""

import numpy as np
import pytest

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
