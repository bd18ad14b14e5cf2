"""Classes of patches from those of their pixels, and back.

Shape letters: B images, h and w patches, C classes.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def count_pixels(labels: Array, grid: tuple[int, int], num_classes: int) -> Array:
    """Counts the pixels of each class in each patch.

    Args:
      labels: [B, H, W] uint8; values from num_classes on do not count.
      grid: (h, w), which divide H and W.
      num_classes: C.

    Returns:
      [B, h, w, C] float32.
    """
    batch, (rows, columns) = len(labels), grid
    labels = labels.reshape(batch, rows, labels.shape[1] // rows, columns, -1)
    labels = labels.transpose(0, 1, 3, 2, 4).reshape(batch * rows * columns, -1)
    patches = jnp.arange(len(labels))[:, None]
    # Whatever does not count lies beyond the last column, where updates are dropped.
    counts = jnp.zeros((len(labels), num_classes), jnp.float32)
    counts = counts.at[patches, labels.astype(jnp.int32)].add(1, mode="drop")
    return counts.reshape(batch, rows, columns, num_classes)


def decide(scores: Array, size: int) -> Array:
    """Returns the class of each pixel, [B, S, S] uint8, by scores interpolated linearly.

    Works row by row: the scores of all pixels are never there at once.

    Args:
      scores: [B, h, w, C].
      size: S.
    """
    batch, _, columns, num_classes = scores.shape
    scores = jax.image.resize(scores, (batch, size, columns, num_classes), "linear")

    def one_row(row):  # [B, w, C]
        return jnp.argmax(jax.image.resize(row, (batch, size, num_classes), "linear"), axis=-1)

    rows = jax.lax.map(one_row, jnp.moveaxis(scores, 1, 0))
    return jnp.moveaxis(rows, 0, 1).astype(jnp.uint8)
