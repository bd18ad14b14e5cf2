"""Points found again, against features that are enlarged by SciPy and compared in NumPy."""

import functools

import jax
import numpy as np
import pytest
from scipy.ndimage import zoom

from ibot_jax.evaluate.measures import keypoints

CANVAS = (30, 40)


@functools.cache
def program():
    """One program for images of all sizes."""

    def find(source, target, points, source_size, target_size):
        vectors = keypoints.at_points(source, points, source_size)
        return vectors, keypoints.nearest_pixels(target, vectors, target_size, CANVAS)

    return jax.jit(find)


def enlarged(grid, size):
    factors = size[0] / grid.shape[0], size[1] / grid.shape[1], 1
    return zoom(grid, factors, order=1, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("sizes", [((30, 40), (30, 40)), ((12, 28), (25, 19)), ((6, 7), (24, 28))])
def test_points_are_found_where_the_cosine_is_largest(sizes):
    rng = np.random.default_rng(0)
    source, target = (rng.normal(size=(6, 7, 5)).astype(np.float32) for _ in range(2))
    points = np.stack([rng.integers(0, sizes[0][1], 9), rng.integers(0, sizes[0][0], 9)], axis=1)
    exact = [np.array(size, np.float32) for size in sizes]
    vectors, found = program()(source, target, points.astype(np.float32), *exact)
    pixels, others = (enlarged(*pair) for pair in zip((source, target), sizes, strict=True))
    expected = pixels[points[:, 1], points[:, 0]]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    unit = others / np.linalg.norm(others, axis=-1, keepdims=True)
    cosine = np.einsum("kf,hwf->khw", expected, unit).reshape(9, -1)
    rows, columns = np.unravel_index(cosine.argmax(1), sizes[1])
    np.testing.assert_array_equal(found, np.stack([columns, rows], axis=1))


def test_points_count_within_a_share_of_the_longer_side():
    truth = np.array([[10, 10], [10, 10], [10, 10], [10, 10]])
    found = np.array([[10, 10], [13, 14], [20, 10], [21, 10]])  # off by 0, 5, 10, 11
    counted = keypoints.correct(found, truth, (5, 5, 25, 105), (0.05, 0.1, 0.11))
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(counted, np.array(expected, bool))
