"""Pixels as backbones take them: less the mean of each channel, over its standard deviation."""

import jax
import jax.numpy as jnp

Array = jax.Array


def normalize(pixels: Array, mean: tuple, std: tuple, dtype: jnp.dtype) -> Array:
    """Normalises uint8 pixels [..., C] to `dtype`; floating ones are taken as normalised."""
    if pixels.dtype == jnp.uint8:
        pixels = standardize(pixels.astype(jnp.float32) / 255, mean, std)
    return pixels.astype(dtype)


def standardize(pixels: Array, mean: tuple, std: tuple) -> Array:
    """Normalises floating pixels [..., C] from 0 to 1, in float32 (float64 for float64)."""
    # bfloat16 would round the mean and standard deviation first.
    pixels = pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32))
    return (pixels - jnp.array(mean)) / jnp.array(std)
