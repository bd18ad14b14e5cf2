"""Depths of pixels from the tokens of patches, by a linear layer over bins, and its losses.

As in DINOv2 (section 7.4), after AdaBins: each patch says how likely each of some depths is, and
their mean is its depth. Shape letters: B images, h and w patches, F features, K bins.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

_BINS = 256
UPSAMPLED = 4  # patches become so many times as many, along both sides
_EPS = 1e-3  # metres, added where logarithms are taken
_SCALES = (1, 2, 4, 6)  # of the gradient loss, every so manyth pixel
_MEAN_WEIGHT = 0.15  # of the mean's square beside the variance


class DepthHead(NamedTuple):
    """A linear layer over bins: kernel [F, K], bias [K]."""

    kernel: Array
    bias: Array

    @classmethod
    def start(cls, key: Array, tokens: Array) -> "DepthHead":
        """Returns the layer for tokens [..., F]: normal weights of deviation 0.01, no bias."""
        return cls(0.01 * jax.random.normal(key, (tokens.shape[-1], _BINS)), jnp.zeros(_BINS))


def depths(head: DepthHead, tokens: Array, nearest: float, farthest: float) -> Array:
    """Returns depths, [B, 4 h, 4 w] metres.

    Logits are enlarged bilinearly, as the original enlarges features: a linear layer does not
    care. relu(logits) + 0.1, over their sum, are the shares of the bins.

    Args:
      head: the layer.
      tokens: [B, h, w, F].
      nearest: the depth of the first bin, metres.
      farthest: of the last one.
    """
    logits = jnp.matmul(tokens, head.kernel, precision="highest") + head.bias
    batch, rows, columns, bins = logits.shape
    size = batch, UPSAMPLED * rows, UPSAMPLED * columns, bins
    shares = jax.nn.relu(jax.image.resize(logits, size, "linear")) + 0.1
    shares = shares / shares.sum(axis=-1, keepdims=True)
    return shares @ jnp.linspace(nearest, farthest, bins, dtype=shares.dtype)


def at_size(depth: Array, size: tuple[int, int]) -> Array:
    """Returns depths [B, H', W'] resized bilinearly to [B, *size]."""
    return jax.image.resize(depth, (depth.shape[0], *size), "linear", antialias=False)


def log_loss(prediction: Array, target: Array, farthest: float, warming: Array | bool) -> Array:
    """Returns the scale-invariant loss of logarithms: the root of var(g) + 0.15 mean(g)^2.

    g are the differences of log(x + 0.001) of all pixels of the batch that count.

    Args:
      prediction: [B, H, W] metres.
      target: likewise; 0 where there is none, and those beyond `farthest` do not count either.
      farthest: metres.
      warming: whether the variance is left out, as it is in the first 100 steps.
    """
    known = (target > 0) & (target <= farthest)
    count = jnp.maximum(known.sum(), 2)
    g = jnp.where(known, jnp.log(prediction + _EPS) - jnp.log(target + _EPS), 0)
    mean = g.sum() / count
    variance = jnp.where(known, (g - mean) ** 2, 0).sum() / (count - 1)
    square = jnp.where(warming, 0, variance) + _MEAN_WEIGHT * mean**2
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def gradient_loss(prediction: Array, target: Array, farthest: float) -> Array:
    """Returns how much log(x + 0.001) rises otherwise than the target, at four scales (MiDaS).

    Of pixels two apart, over the number of those that count. Arguments as of `log_loss`.
    """
    total = jnp.zeros((), prediction.dtype)
    for step in _SCALES:
        some, truth = (x[:, ::step, ::step] for x in (prediction, target))
        known = (truth > 0) & (truth <= farthest)
        g = jnp.where(known, jnp.log(some + _EPS) - jnp.log(truth + _EPS), 0)
        rises = (
            jnp.where(known[:, :-2] & known[:, 2:], jnp.abs(g[:, :-2] - g[:, 2:]), 0).sum(),
            jnp.where(known[..., :-2] & known[..., 2:], jnp.abs(g[..., :-2] - g[..., 2:]), 0).sum(),
        )
        total += sum(rises) / jnp.maximum(known.sum(), 1)
    return total


def rate(step: Array | int, peak: float, steps: int, warmup: int) -> Array:
    """Returns the learning rate of a step, which counts from 0.

    A cosine over all steps down to 4e-5 of the peak, times a linear warm-up from a thousandth.
    """
    floor = 4e-5 * peak
    cosine = floor + (peak - floor) * (1 + jnp.cos(math.pi * (step + 1) / steps)) / 2
    return cosine * jnp.minimum(1, 1e-3 + (1 - 1e-3) * step / max(warmup, 1))
