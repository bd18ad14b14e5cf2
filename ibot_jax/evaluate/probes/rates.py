"""Learning rates of probes by the step, which counts from 0: warmed up along a line, then falling.

During the warm-up the rate is also multiplied by the share of steps that are left, as in mmcv.
"""

import math

import jax
import jax.numpy as jnp

_FIRST = 1e-6  # share of the rate at which the warm-up starts


def linear(step: jax.Array | int, peak: float, steps: int, warmup: int) -> jax.Array:
    """Returns a rate that falls along a line to 0 (mmcv's "poly" of power 1, of DINOv2, iBOT)."""
    return peak * (1 - step / steps) * _warmed(step, warmup)


def cosine(step: jax.Array | int, peak: float, steps: int, warmup: int) -> jax.Array:
    """Returns a rate that falls along a cosine over all steps to 0 (DINOv3)."""
    fallen = (1 + jnp.cos(math.pi * (step + 1) / steps)) / 2
    left = 1 - step / steps
    return peak * jnp.where(step < warmup, left * _warmed(step, warmup), fallen)


def _warmed(step: jax.Array | int, warmup: int) -> jax.Array:
    done = jnp.minimum(1, step / warmup) if warmup else 1
    return _FIRST + (1 - _FIRST) * done


RATES = {"linear": linear, "cosine": cosine}
