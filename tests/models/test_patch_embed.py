"""The convolution that TPUs run is the product of cut-out patches that other devices run."""

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.models.patch_embed import PatchEmbed, convolve_patches, multiply_patches


def test_both_ways_are_one_linear_layer_of_each_patch():
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 8, 12, 3)), rng.normal(size=(4 * 4 * 3, 5))
    expected = np.empty((2, 2, 3, 5))
    for row in range(2):
        for column in range(3):
            patch = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected[:, row, column] = patch.reshape(2, -1) @ kernel
    for way in (multiply_patches, convolve_patches):
        found = way(4, jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_fills_no_patch_is_cut_off():
    layer = PatchEmbed(4, 5, jnp.float32, jnp.float32)
    images = jax.random.normal(jax.random.key(0), (1, 11, 9, 3))
    params = layer.init(jax.random.key(1), images)
    found, cut = layer.apply(params, images), layer.apply(params, images[:, :8, :8])
    assert found.shape == (1, 2, 2, 5)
    np.testing.assert_array_equal(found, cut)
