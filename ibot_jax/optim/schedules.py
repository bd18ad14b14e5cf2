"""Schedules: functions of the run's step, for rates, decay, momentum and temperatures."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ibot_jax.config import durations
from ibot_jax.config.plan import Plan

Array = jax.Array
Schedule = Callable[[Array], Array]  # step, floating scalar -> value, scalar


def cosine(base: float, final: float, first: int, last: int, extra: float = 0.0) -> Schedule:
    """A half cosine from `base` at step `first` to `final` at step `last`; for no other steps.

    Args:
      base: the value at first.
      final: the value at last.
      first: step.
      last: step.
      extra: share of its points by which the cosine is longer than the steps from `first` to
        `last`; it is cut there, and stretched to end at `final` (DINOv3's truncated schedules).
    """
    if extra:
        points = last - first + 1
        angle = math.pi * (points - 1) / max(int((1 + extra) * points) - 1, 1)

        def share(left: Array) -> Array:
            # (cos(a) - cos(angle)) / (1 - cos(angle)) at a = angle (1 - left), as a product.
            half = angle / 2
            return jnp.sin(half * (2 - left)) * jnp.sin(half * left) / math.sin(half) ** 2
    else:

        def share(left: Array) -> Array:
            # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2)^2, which is not rounded to 0 near the end.
            return jnp.sin(jnp.pi / 2 * left) ** 2

    return lambda step: final + (base - final) * share(_left(step, first, last))


def linear(base: float, final: float, first: int, last: int) -> Schedule:
    """A straight line from `base`, which holds up to step `first`, to `final` from step `last`."""
    return lambda step: final + (base - final) * jnp.clip(_left(step, first, last), 0, 1)


def _left(step: Array, first: int, last: int) -> Array:
    """Returns the share of the steps from `first` to `last` that are still to come."""
    return (last - step) / max(last - first, 1)


def warmed_up(
    then: Schedule, peak: float, steps: int, *, start: float = 0.0, end: bool = True
) -> Schedule:
    """A straight rise from `start` to `peak`, and another schedule after it.

    Args:
      then: the schedule after the rise; it counts from the run's first step, too.
      peak: value to which it rises.
      steps: of the rise.
      start: value at step 0.
      end: whether its last step has the peak; else the step after it would.
    """
    top = max(steps - end, 1)

    def schedule(step: Array) -> Array:
        return jnp.where(step < steps, start + (peak - start) * step / top, then(step))

    return schedule


def cosine_schedule(base: float, final: float, total: int, warmup: int = 0) -> Schedule:
    """The original's: linear warm-up from 0, both ends included, then a half cosine.

    Args:
      base: value after the warm-up.
      final: value that step `total` would have.
      total: steps of the run.
      warmup: steps of the warm-up, fewer than `total`.

    Returns:
      A function from the step to the value.
    """
    return warmed_up(cosine(base, final, warmup, total), base, warmup)


def rate_schedule(
    shape: str, peak: float, final: float, first: int, last: int, *, cooldown: int, extra: float
) -> Schedule:
    """Returns how the learning rate falls after its warm-up.

    Args:
      shape: "cosine", "linear", or "constant", which falls along a straight line at the end.
      peak: the rate until `first`.
      final: the rate from `last` on.
      first: step.
      last: step.
      cooldown: steps of the fall of a constant rate; with 0 it never falls.
      extra: of a cosine, as there.
    """
    if shape == "cosine":
        return cosine(peak, final, first, last, extra)
    if shape == "constant":
        if not cooldown:
            return lambda step: jnp.full_like(step, peak)
        first = last - cooldown
    return linear(peak, final, first, last)


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
