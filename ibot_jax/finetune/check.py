"""Checks of a fine-tuning config, before anything compiles: each mistake is one line."""

import math

from ml_collections import ConfigDict

from ibot_jax.config import Plan, parse_duration
from ibot_jax.config_check import flatten
from ibot_jax.config_keys import check_keys_and_types, entries, require
from ibot_jax.finetune.config import get_config

_CHOICES = {
    "start": ("backbone", "projection"),
    "remat": ("none", "dots", "blocks"),
    "data.resize": ("simd", "pillow"),
}
# Ranges; of a key with several entries, each entry lies in it.
_POSITIVE = ("batch_size", "optim.lr", "optim.layer_decay", "checkpoint.keep")
_NOT_NEGATIVE = (
    "seed",
    "classifier_std",
    "optim.min_lr",
    "optim.weight_decay",
    "loss.mixup",
    "loss.cutmix",
    "data.rand_augment.ops",
    "data.rand_augment.magnitude_std",
    "data.workers",
    "data.stall_seconds",
)
_SHARES = (
    "optim.layer_decay",
    "loss.label_smoothing",
    "loss.cutmix_share",
    "data.scale",
    "data.flip",
    "data.erase",
    "data.max_bad_share",
)
_INTERVALS = ("data.scale", "data.aspect")
PERIODS = ("test_every", "checkpoint.every", "log_every")  # what happens again and again
_DURATIONS = ("duration", "optim.warmup", *PERIODS)


def check_config(config: ConfigDict) -> None:
    """Checks all that can be known without model, data and devices.

    Raises:
      UserError: for the first mistake found.
    """
    flat = flatten(config)
    check_keys_and_types(flat, flatten(get_config()))
    for key, choices in _CHOICES.items():
        require(flat, key, flat[key] in choices, f"is unknown; use {' or '.join(choices)}")
    for keys, holds, words in (
        (_POSITIVE, lambda x: x > 0, "must be above 0"),
        (_NOT_NEGATIVE, lambda x: x >= 0, "must not be negative"),
        (_SHARES, lambda x: 0 <= x <= 1, "must lie between 0 and 1"),
        (("drop_path",), lambda x: 0 <= x < 1, "must be in [0, 1)"),
        (("data.rand_augment.magnitude",), lambda x: 0 <= x <= 10, "must lie between 0 and 10"),
    ):
        for key in keys:
            require(flat, key, all(map(holds, entries(flat[key]))), words)
    for key in _INTERVALS:
        require(flat, key, len(flat[key]) == 2, "needs two entries")
        require(flat, key, 0 < flat[key][0] <= flat[key][1], "must be 0 < low <= high")
    for key in _DURATIONS:
        number, _ = parse_duration(key, flat[key])
        require(flat, key, math.isfinite(number), "is not finite; give a number")
    mixes = flat["loss.mixup"] > 0 or flat["loss.cutmix"] > 0
    problem = "is odd, but images are mixed in pairs; make it even, or set loss.mixup and "
    problem += "loss.cutmix to 0"
    require(flat, "batch_size", flat["batch_size"] % 2 == 0 or not mixes, problem)


def check_run(config: ConfigDict, plan: Plan, *, channels: int, num_devices: int) -> None:
    """Checks what depends on the size of the data, the model's input and the devices.

    Args:
      config: checked by `check_config`.
      plan: the run's length.
      channels: of the images.
      num_devices: of all processes.

    Raises:
      UserError: for the first mistake found.
    """
    flat = flatten(config)
    key = "optim.warmup"
    steps = plan.steps(key, flat[key])
    problem = (
        f"({steps} steps) is not shorter than the run ({plan.total_steps} steps, "
        f"duration={config.duration!r}); shorten the one or lengthen the other"
    )
    require(flat, key, steps < plan.total_steps, problem)
    for key in PERIODS:
        long_enough = plan.steps(key, flat[key]) >= 1
        require(flat, key, long_enough, "is less than one step; make it longer")
    key = "batch_size"
    nearest = max(round(flat[key] / num_devices), 1) * num_devices
    problem = f"is not divisible by the {num_devices} devices; {nearest} is"
    require(flat, key, flat[key] % num_devices == 0, problem)
    key = "data.rand_augment.ops"
    problem = f"is for images of 1 or 3 channels, and these have {channels}; set it to 0"
    require(flat, key, channels in (1, 3) or not flat[key], problem)
