"""Maps of patch tokens as one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def concatenated(maps: Sequence[jax.Array]) -> jax.Array:
    """Returns maps [B, h, w, F] of several grids as one, of all their features.

    All are brought to the finest grid of them, bilinearly.
    """
    grid = max(x.shape[1:3] for x in maps)
    return jnp.concatenate([_enlarged(x, grid) for x in maps], axis=-1)


def _enlarged(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    if x.shape[1:3] == grid:
        return x
    return jax.image.resize(x, (len(x), *grid, x.shape[-1]), "linear")
