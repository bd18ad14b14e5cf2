"""Images with patches taken out or tiles in disorder (Naseer et al., arXiv 2105.10497)."""

import jax
import jax.numpy as jnp

Array = jax.Array


def drop_patches(images: Array, scores: Array, ratio: Array | float) -> Array:
    """Blanks the patches of the highest scores.

    Args:
      images: [B, H, W, C] floating and normalised, so that 0 is the mean colour of the data.
      scores: [B, h, w] of the patches, which fill height and width.
      ratio: share of patches that are blanked, rounded to whole ones; may be traced.

    Returns:
      [B, H, W, C].
    """
    (_, height, width, _), (batch, rows, columns) = images.shape, scores.shape
    order = jnp.argsort(-scores.reshape(batch, -1), axis=1)
    places = jnp.argsort(order, axis=1)  # 0 for the highest score
    kept = places >= jnp.round(ratio * rows * columns)
    kept = kept.reshape(batch, rows, columns)
    kept = jnp.repeat(jnp.repeat(kept, height // rows, axis=1), width // columns, axis=2)
    return jnp.where(kept[..., None], images, 0)


def shuffle_tiles(images: Array, grid: int, rng: Array) -> Array:
    """Cuts each image into grid x grid tiles and puts them back in random order.

    Args:
      images: [B, H, W, C].
      grid: tiles along a side; divides H and W. With 1 nothing changes.
      rng: key; each image of the batch has an order of its own.

    Returns:
      [B, H, W, C].
    """
    batch, height, width, channels = images.shape
    tall, wide = height // grid, width // grid
    tiles = images.reshape(batch, grid, tall, grid, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(batch, grid * grid, tall, wide, channels)
    order = jax.vmap(lambda key: jax.random.permutation(key, grid * grid))(
        jax.random.split(rng, batch)
    )
    tiles = jnp.take_along_axis(tiles, order[:, :, None, None, None], axis=1)
    tiles = tiles.reshape(batch, grid, grid, tall, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(images.shape)
