"""Classes of pixels from the tokens of patches by a linear layer.

Shape letters: B images, h and w patches, F features of a patch, C classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Linear(NamedTuple):
    """A linear layer: kernel [F, C], bias [C]."""

    kernel: Array
    bias: Array

    def __call__(self, tokens: Array) -> Array:
        """Returns the logits [..., C] of tokens [..., F]."""
        return jnp.matmul(tokens, self.kernel, precision="highest") + self.bias


def linear_loss(head: Linear, tokens: Array, counts: Array) -> Array:
    """Returns the mean cross-entropy of pixels, all of a patch with the logits of the patch.

    Args:
      head: the layer.
      tokens: [B, h, w, F].
      counts: [B, h, w, C] pixels of each class in each patch.
    """
    log_probs = jax.nn.log_softmax(head(tokens).astype(jnp.float32))
    return -(counts * log_probs).sum() / jnp.maximum(counts.sum(), 1)


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
