"""The rotation of queries and keys by the positions of their tokens."""

import jax
import jax.numpy as jnp

Array = jax.Array


def rotate(x: Array, table: Array) -> Array:
    """Rotates the last tokens' columns in pairs, half a head apart; tokens before them stay.

    All are rounded to the table's dtype, those that stay too, as in DINOv3.

    Args:
      x: [B, T, heads, head_dim], queries or keys.
      table: [2, N, head_dim], cosines and sines of the last N tokens' angles, each angle twice: at
        both columns of its pair. Its dtype is that of the rotation.

    Returns:
      As `x`.
    """
    cos, sin = table[:, None, :, None]
    rounded = x.astype(table.dtype)
    others, patches = jnp.split(rounded, [x.shape[1] - table.shape[1]], axis=1)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([others, turned], axis=1).astype(x.dtype)
