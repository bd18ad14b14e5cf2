"""Margins of images that are no whole patches are the recorded ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.evaluate.features.patch_maps import centered, in_whole_patches


def test_margins_are_the_recorded_ones(dense_evaluation):
    image = np.moveaxis(dense_evaluation["center_padding/input"], 1, -1)
    found = centered(jnp.asarray(image, jnp.float32), (28 - 17, 42 - 30))
    want = np.moveaxis(dense_evaluation["center_padding/14"], 1, -1)
    np.testing.assert_array_equal(found, want.astype(np.float32))


def test_images_become_whole_patches_around_their_middle(loaded):
    model, _ = loaded
    images = np.random.default_rng(0).integers(0, 256, (2, 13, 18, 3), dtype=np.uint8)
    found = in_whole_patches(model, jnp.asarray(images))
    data = model.config.data
    want = (images / 255 - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(found[:, 1:14, 1:19], want, atol=1e-5)
    assert found.shape == (2, 16, 20, 3)
    assert np.abs(found).sum() == pytest.approx(np.abs(found[:, 1:14, 1:19]).sum())
