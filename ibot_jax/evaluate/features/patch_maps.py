"""Maps of patch tokens: of images that are no whole patches, and several as one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ibot_jax.evaluate.features.extract import FeatureFn
from ibot_jax.models.pixels import normalize
from ibot_jax.weights.model import Model


def make_patch_fn(model: Model) -> FeatureFn:
    """Returns (params, images [B, H, W, C] uint8) -> patches of the last block, [B, h, w, D]."""
    return lambda params, images: model.features(params, images).patches


def in_whole_patches(model: Model, images: jax.Array) -> jax.Array:
    """Returns images [B, H, W, C] uint8, normalised, with a margin that makes them whole patches.

    The margin is 0, half of it on each side, the odd row or column right and below (DINOv2's).
    """
    data = model.config.data
    images = normalize(images, data.mean, data.std, jnp.float32)
    return centered(images, model.geometry.missing(images.shape[1:3]))


def centered(images: jax.Array, missing: tuple[int, int]) -> jax.Array:
    """Returns images [B, H, W, C] with so many more (rows, columns) of zeros around them."""
    sides = [(margin // 2, margin - margin // 2) for margin in missing]
    return jnp.pad(images, ((0, 0), *sides, (0, 0)))


def concatenated(maps: Sequence[jax.Array]) -> jax.Array:
    """Returns maps [B, h, w, F] of several grids as one, of all their features.

    All are brought to the finest grid of them, bilinearly.
    """
    grid = max(x.shape[1:3] for x in maps)
    return jnp.concatenate([_enlarged(x, grid) for x in maps], axis=-1)


def _enlarged(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    if x.shape[1:3] == grid:
        return x
    return jax.image.resize(x, (x.shape[0], *grid, x.shape[-1]), "linear")
