"""Classes of pixels from the tokens of patches: a linear layer behind batch normalisation.

As in DINOv2 and DINOv3, whose layers these are: BatchNorm with running statistics, a 1x1
convolution, logits enlarged bilinearly. The original of iBOT has no BatchNorm. Shape letters: B
images, h and w patches, F features, C classes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED
from ibot_jax.evaluate.features import bilinear

Array = jax.Array

_EPS = 1e-5  # of BatchNorm
_MOMENTUM = 0.1  # of the newest batch in the running statistics
_STRIP = 32  # rows of pixels whose logits are there at a time


class Head(NamedTuple):
    """What is trained: kernel [F, C], bias [C], and BatchNorm's scale and offset [F], or None."""

    kernel: Array
    bias: Array
    scale: Array | None
    offset: Array | None


class Running(NamedTuple):
    """What BatchNorm has seen: mean and variance, [F]."""

    mean: Array
    variance: Array


def start(features: int, classes: int, key: Array, *, batch_norm: bool) -> tuple[Head, Running]:
    """Returns the layer as it starts: normal weights of deviation 0.01, no bias."""
    kernel = 0.01 * jax.random.normal(key, (features, classes))
    ones, zeros = jnp.ones(features), jnp.zeros(features)
    norm = (ones, zeros) if batch_norm else (None, None)
    return Head(kernel, jnp.zeros(classes), *norm), Running(zeros, ones)


def logits(head: Head, running: Running, tokens: Array) -> Array:
    """Returns the logits [B, h, w, C] of tokens [B, h, w, F], normalised by what was seen."""
    if head.scale is not None:
        shares = head.scale * jax.lax.rsqrt(running.variance + _EPS)
        tokens = (tokens - running.mean) * shares + head.offset
    return jnp.matmul(tokens, head.kernel, precision="highest") + head.bias


def training_logits(
    head: Head, running: Running, tokens: Array, key: Array, dropout: float
) -> tuple[Array, Running]:
    """Returns the logits of tokens that are normalised by their own statistics.

    Args:
      head: the layer.
      running: the statistics so far.
      tokens: [B, h, w, F].
      key: of the dropout.
      dropout: share of the features of each image that are left out, as DINOv3 does: before
        BatchNorm, a feature on all patches at once.

    Returns:
      [B, h, w, C], and the statistics with those of this batch.
    """
    if dropout:
        kept = jax.random.bernoulli(key, 1 - dropout, (len(tokens), 1, 1, tokens.shape[-1]))
        tokens = jnp.where(kept, tokens / (1 - dropout), 0)
    if head.scale is None:
        return logits(head, running, tokens), running
    axes = (0, 1, 2)
    batch = Running(tokens.mean(axes), tokens.var(axes))
    number = tokens.size // tokens.shape[-1]
    unbiased = batch._replace(variance=batch.variance * (number / (number - 1)))
    seen = jax.tree.map(lambda old, new: old + _MOMENTUM * (new - old), running, unbiased)
    return logits(head, batch, tokens), jax.lax.stop_gradient(seen)


def loss(values: Array, labels: Array) -> Array:
    """Returns the cross-entropy of pixels, averaged over all of them; those ignored count as 0.

    Works on strips of rows, forward and backward: the logits of all pixels are never there at once.

    Args:
      values: logits [B, h, w, C], which are enlarged to the labels' size.
      labels: [B, H, W] uint8, `IGNORED` where there is none.
    """
    batch, height, width = labels.shape
    rows, columns = (
        jnp.asarray(bilinear.weights(cells, side), values.dtype)
        for cells, side in zip(values.shape[1:3], (height, width), strict=True)
    )
    strip = math.gcd(height, _STRIP)

    @jax.checkpoint
    def one_strip(rows, labels):  # [s, h], [B, s, W]
        scores = jnp.einsum("yh,bhwc->bywc", rows, values, precision="highest")
        scores = jnp.einsum("xw,bywc->byxc", columns, scores, precision="highest")
        known = labels != IGNORED
        right = jnp.where(known, labels, 0).astype(jnp.int32)
        picked = jnp.take_along_axis(scores, right[..., None], axis=-1)[..., 0]
        return jnp.where(known, jax.nn.logsumexp(scores, axis=-1) - picked, 0).sum()

    def add(total, strips):
        return total + one_strip(*strips), None

    strips = (
        rows.reshape(-1, strip, rows.shape[1]),
        jnp.moveaxis(labels.reshape(batch, -1, strip, width), 1, 0),
    )
    total, _ = jax.lax.scan(add, jnp.zeros((), values.dtype), strips)
    return total / labels.size
