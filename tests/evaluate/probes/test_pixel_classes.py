"""Classes of patches and of pixels against NumPy."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from ibot_jax.evaluate.probes import pixel_classes


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_pixels_are_counted_patch_by_patch(rng):
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, 6, 9))
    counts = pixel_classes.count_pixels(labels, (2, 3), 3).reshape(2, 6, 3)
    for image in range(2):
        for patch in range(6):
            row, column = 3 * (patch // 3), 3 * (patch % 3)
            pixels = labels[image, row : row + 3, column : column + 3]
            expected = [(pixels == c).sum() for c in range(3)]
            np.testing.assert_array_equal(counts[image, patch], expected)


def test_pixels_are_decided_by_scores_between_the_patches(rng):
    scores = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    found = pixel_classes.decide(scores, 12)
    assert found.shape == (2, 12, 12) and found.dtype == np.uint8
    zoomed = zoom(scores, (1, 4, 4, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_array_equal(found, zoomed.argmax(-1))
