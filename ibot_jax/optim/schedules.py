"""Schedules: functions of the run's step, for rates, decay, momentum and temperatures."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ibot_jax.config import durations
from ibot_jax.config.plan import Plan

Array = jax.Array
Schedule = Callable[[Array], Array]  # step, floating scalar -> value, scalar


def cosine_schedule(base: float, final: float, total: int, warmup: int = 0) -> Schedule:
    """Linear warm-up from 0 to `base`, both ends included, then a half cosine to `final`.

    Args:
      base: value after the warm-up.
      final: value that step `total` would have.
      total: steps of the run.
      warmup: steps of the warm-up, fewer than `total`.

    Returns:
      A function from the step to the value.
    """

    def schedule(step: Array) -> Array:
        rising = base * step / max(warmup - 1, 1)
        # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2)^2, which is not rounded to 0 near the end.
        left = (total - step) / (total - warmup)
        falling = final + (base - final) * jnp.sin(jnp.pi / 2 * left) ** 2
        return jnp.where(step < warmup, rising, falling)

    return schedule


def teacher_temperature(
    epoch: Array, start: float, final: float, warmup_epochs: int, wait_epochs: int
) -> Array:
    """The original's teacher temperature: constant within an epoch.

    Args:
      epoch: floating scalar, from 0; or a step, where the lengths are in steps, too.
      start: the value during `wait_epochs` and in the first epoch of the warm-up.
      final: the value in the last epoch of the warm-up and from there on.
      warmup_epochs: length of the linear warm-up, both ends included.
      wait_epochs: epochs before the warm-up.

    Returns:
      Scalar.
    """
    warm = epoch - wait_epochs
    progress = jnp.maximum(warm / max(warmup_epochs - 1, 1), 0)
    return jnp.where(warm < warmup_epochs, start + (final - start) * progress, final)


def temperature_schedule(
    start: float, final: float, *, warmup: str, plan: Plan, wait: str = "0 epochs"
) -> Schedule:
    """Returns a teacher's temperature as a function of the step.

    Args:
      start: the value at first.
      final: the value after the warm-up.
      warmup: duration of the rise. One of some epochs goes by epochs, as the original's; any other
        goes by steps.
      plan: the run's length.
      wait: duration before the rise, that of `masks.start`.
    """
    by_epochs = durations.parse(warmup)[1] == "epochs"
    stair = plan.steps_per_epoch if by_epochs else 1
    rise = math.ceil(plan.steps("loss.teacher_temp_warmup", warmup) / stair)
    before = math.ceil(plan.steps("masks.start", wait) / stair)
    return lambda step: teacher_temperature(step // stair, start, final, rise, before)
