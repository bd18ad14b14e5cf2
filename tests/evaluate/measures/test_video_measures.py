"""J and F of simple masks, by hand and against dilation with a disk."""

import math

import numpy as np
import pytest
from scipy import ndimage

from ibot_jax.evaluate.measures.video_measures import boundary_f, contour, jaccard, statistics


def box(top, left, height, width, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = np.zeros((40, 60), bool)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (box(5, 5, 10, 10), box(5, 5, 10, 10), 1),
        (box(5, 5, 10, 10), box(5, 10, 10, 10), 50 / 150),
        (box(5, 5, 10, 10), box(20, 30, 10, 10), 0),
        (EMPTY, EMPTY, 1),
        (EMPTY, box(5, 5, 1, 1), 0),
    ],
)
def test_j_is_intersection_over_union(prediction, truth, expected):
    assert jaccard(prediction, truth) == pytest.approx(expected)


def test_a_contour_lies_half_a_pixel_towards_the_origin():
    mask = box(2, 2, 2, 3, shape=(5, 6))
    expected = [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(contour(mask), expected)
    assert not contour(np.ones((4, 4), bool)).any()  # the image's edge is no contour


def test_f_by_hand():
    """The diagonal of 40x60 is 72.1, so the tolerance is one pixel."""
    truth = box(10, 10, 10, 10)
    assert boundary_f(truth, truth) == 1
    assert boundary_f(box(10, 11, 10, 10), truth) == 1  # one pixel beside
    assert boundary_f(box(10, 40, 10, 10), truth) == 0
    assert boundary_f(EMPTY, truth) == boundary_f(truth, EMPTY) == 0
    assert boundary_f(EMPTY, EMPTY) == 1
    # Contours: 40 pixels of a 10x10 box. The second box's are all wrong: precision 1/2.
    assert boundary_f(truth | box(10, 40, 10, 10), truth) == pytest.approx(2 / 3)
    # The left half, 10x5, has 30 contour pixels; of the 9 of its cut, column 14, the 7 in the
    # middle are more than a pixel from the truth's. Of the truth's 40, the 9 of the right column
    # and the 4 right of column 15 in the upper and in the lower row are wrong.
    precision, recall = 23 / 30, 23 / 40
    half = boundary_f(box(10, 10, 10, 5), truth)
    assert half == pytest.approx(2 * precision * recall / (precision + recall))


def test_f_equals_that_of_contours_dilated_with_a_disk():
    rng = np.random.default_rng(0)
    shape = (240, 300)  # a diagonal of 384.2: 4 pixels
    radius = math.ceil(0.008 * math.hypot(*shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = y * y + x * x <= radius * radius
    for _ in range(5):
        masks = [ndimage.gaussian_filter(rng.normal(size=shape), 8) > 0.02 for _ in range(2)]
        edges = [contour(mask) for mask in masks]
        wide = [ndimage.binary_dilation(edge, disk) for edge in edges]
        precision = (edges[0] & wide[1]).sum() / edges[0].sum()
        recall = (edges[1] & wide[0]).sum() / edges[1].sum()
        expected = 2 * precision * recall / (precision + recall)
        assert boundary_f(*masks) == pytest.approx(expected, abs=1e-12)
        assert 0 < expected < 1


def test_mean_recall_and_decay():
    """Quarters of ten frames share their ends: frames 1 to 3, ..., 8 to 10."""
    values = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    mean, recall, decay = statistics(values)
    assert mean == pytest.approx(0.55)
    assert recall == 0.5
    assert decay == pytest.approx(0.9 - 0.2)
    assert statistics(np.array([0.5])) == (0.5, 0, 0)
