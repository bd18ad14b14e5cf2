"""Schedules: functions of the run's step, for rates, decay, momentum and temperatures."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ibot_jax.config import durations
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section

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
    epoch: Array, start: float, final: float, warmup_epochs: int, wait_epochs: int = 0
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
    progress = jnp.clip(warm / max(warmup_epochs - 1, 1), 0, 1)
    return jnp.where(warm < warmup_epochs, start + (final - start) * progress, final)


def make_schedules(config: Section, plan: Plan) -> dict[str, Schedule]:
    """Returns what changes over a run, by name, as functions of the step.

    `teacher_rate` is 1 - the teacher's momentum, which rises to 1 on a cosine.
    """
    optim, loss = config.optim, config.loss
    total = plan.total_steps

    # A rise of some epochs goes by epochs, as the original's; any other goes by steps.
    by_epochs = durations.parse(loss.teacher_temp_warmup)[1] == "epochs"
    stair = plan.steps_per_epoch if by_epochs else 1

    def temperature(start: float, final: float, wait: str) -> Schedule:
        def stairs(key, duration):
            return math.ceil(plan.steps(key, duration) / stair)

        warmup = stairs("loss.teacher_temp_warmup", loss.teacher_temp_warmup)
        wait = stairs("masks.start", wait)
        return lambda step: teacher_temperature(step // stair, start, final, warmup, wait)

    return {
        "lr": cosine_schedule(
            optim.lr * config.batch_size / 256,
            optim.min_lr,
            total,
            plan.steps("optim.warmup", optim.warmup),
        ),
        "weight_decay": cosine_schedule(optim.weight_decay, optim.weight_decay_end, total),
        "teacher_rate": cosine_schedule(1 - config.teacher_momentum, 0.0, total),
        "teacher_temp": temperature(loss.teacher_temp_start, loss.teacher_temp, "0 epochs"),
        "teacher_patch_temp": temperature(
            loss.teacher_patch_temp_start, loss.teacher_patch_temp, config.masks.start
        ),
    }
