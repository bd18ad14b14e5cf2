"""Checks of a fine-tuning config, before anything compiles: all mistakes at once, in one line."""

from collections.abc import Iterator

from ibot_jax.config.flat import Flat
from ibot_jax.config.plan import Plan
from ibot_jax.config.problems import (
    config_problems,
    periods_too_short,
    refuse,
    run_too_short,
    share_of_run,
    stated,
)
from ibot_jax.config.relations import check_lora, check_rates, check_workers
from ibot_jax.finetune.config import KEYS

_PERIODS = ("test_every", "checkpoint.every", "log_every")  # what happens again and again


def problems_at_hand(flat: Flat, wrong: bool = False) -> list[str]:
    """Returns what is wrong with a config, without model, data and devices.

    It is the same whether or not something else is wrong already.
    """
    del wrong
    return config_problems(flat, KEYS, _CHECKS)


def check_run(
    flat: Flat, plan: Plan | None, *, channels: int, bands: bool = False, num_devices: int
) -> None:
    """Checks what depends on the size of the data, the model's input and the devices.

    Args:
      flat: the config; `problems_at_hand` has found nothing.
      plan: the run's length; None if there is none, of which nothing is said here.
      channels: of the images.
      bands: whether these are bands, and no colours.
      num_devices: of all processes.

    Raises:
      UserError: with all mistakes.
    """
    found = list(_too_late(flat, plan))
    found += periods_too_short(flat, _PERIODS, plan) if plan else []
    key = "batch_size"
    if flat[key] % num_devices:
        nearest = max(round(flat[key] / num_devices), 1) * num_devices
        problem = f"is not divisible by the {num_devices} devices; {nearest} is"
        found.append(stated(flat, key, problem))
    key = "data.rand_augment.ops"
    if flat[key] and (bands or channels not in (1, 3)):
        kind = "bands" if bands else "channels"
        problem = f"is for greys and RGB, and these images have {channels} {kind}; set it to 0"
        found.append(stated(flat, key, problem))
    refuse(found)


def _too_late(flat: Flat, plan: Plan | None = None) -> Iterator[str]:
    key = "optim.warmup"
    late = {key: 1.0} if share_of_run(flat, key, plan) >= 1 else {}
    yield from run_too_short(flat, KEYS, late, plan)


def _check_mixing(flat: Flat) -> Iterator[str]:
    mixes = flat["loss.mixup"] > 0 or flat["loss.cutmix"] > 0
    if mixes and flat["batch_size"] % 2:
        problem = "is odd, but images are mixed in pairs; make it even, or set loss.mixup and "
        yield stated(flat, "batch_size", f"{problem}loss.cutmix to 0")


_CHECKS = (_too_late, check_rates, check_lora, check_workers, _check_mixing)
