"""What is dropped and shuffled, against NumPy."""

import jax
import numpy as np
import pytest

from ibot_jax.evaluate.benchmarks.perturbations import drop_patches, shuffle_tiles


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(3, 8, 12, 2)).astype(np.float32)


@pytest.mark.parametrize("ratio", [0, 0.1, 0.5, 0.9, 1])
def test_the_patches_of_the_highest_scores_are_blank(images, ratio):
    scores = np.random.default_rng(1).permuted(np.tile(np.arange(6.0), (3, 1)), axis=1)
    found = jax.jit(drop_patches)(images, scores.reshape(3, 2, 3), ratio)
    for image, result, order in zip(images, np.asarray(found), scores, strict=True):
        for patch in range(6):
            row, column = 4 * (patch // 3), 4 * (patch % 3)
            part = np.s_[row : row + 4, column : column + 4]
            blank = order[patch] >= 6 - round(ratio * 6)
            np.testing.assert_array_equal(result[part], 0 if blank else image[part])


def test_dropping_nothing_changes_nothing(images):
    np.testing.assert_array_equal(drop_patches(images, np.zeros((3, 2, 3)), 0.0), images)


def test_one_tile_is_the_whole_image(images):
    np.testing.assert_array_equal(shuffle_tiles(images, 1, jax.random.key(0)), images)


def test_tiles_stay_whole_and_each_is_there_once(images):
    found = np.asarray(shuffle_tiles(images, 4, jax.random.key(0)))

    def tiles(image):
        return {
            image[r : r + 2, c : c + 3].tobytes(): (r, c)
            for r in range(0, 8, 2)
            for c in range(0, 12, 3)
        }

    orders = []
    for image, result in zip(images, found, strict=True):
        before, after = tiles(image), tiles(result)
        assert before.keys() == after.keys() and len(after) == 16
        orders.append([before[tile] for tile in after])
    assert orders[0] != orders[1]  # each image has an order of its own
    assert orders[0] != sorted(orders[0])
