"""The default configuration, and how long a run is.

`configs/*.py` start from `get_config()` and override. The config holds primary values only:
step counts and scaled learning rates are derived where they are used, so that an override on the
command line never leaves a stale one behind.
"""

import dataclasses

from ml_collections import ConfigDict

from ibot_jax.config import durations
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.keys import make_config
from ibot_jax.errors import UserError

# The published widths, depths and head counts: `config.model.update(VIT_SIZES["small"])`.
VIT_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}

MOST_STEPS = 2**31 - 1  # a step is an int32

# Chips of the pods that the ImageNet configs have settings for, `configs/vitb16.py:v5e-256`.
PODS = {"v5e-16": 16, "v5e-64": 64, "v5e-256": 256, "v4-64": 64, "v5p-64": 64}


def apply_pod(config: ConfigDict, pod: str) -> None:
    """Spreads the batch over the chips of a pod, one of `PODS`; "" leaves the config as it is.

    Raises:
      UserError: if there is no such pod.
    """
    if pod:
        if pod not in PODS:
            raise UserError(f"there are no settings for {pod!r}; use one of {', '.join(PODS)}")
        config.mesh.data = PODS[pod]


def get_config() -> ConfigDict:
    """Returns the default configuration: ViT-S/16 with the published settings, no data source.

    `defaults.KEYS` says what each key means and takes.
    """
    return make_config(KEYS)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, once the size of the data is known.

    Attributes:
      batch_size: images a step, over all devices.
      steps_per_epoch: whole batches in the data.
      total_steps: optimiser steps of the whole run.
    """

    batch_size: int
    steps_per_epoch: int
    total_steps: int

    def steps(self, key: str, text: str) -> int:
        """Converts the duration `text` of config key `key` to whole steps."""
        return _to_steps(key, text, self.batch_size, self.steps_per_epoch, self.total_steps)


def _to_steps(key: str, text: str, *lengths: int) -> int:
    try:
        return durations.to_steps(text, *lengths)
    except ValueError as error:
        raise UserError(f"{key}={text!r} {error}") from None


def make_plan(config: ConfigDict, num_examples: int, *, multiple: int = 1) -> Plan:
    """Derives the run's length from the config and the number of training examples.

    Args:
      config: of the run.
      num_examples: in the data.
      multiple: what the batch size is a multiple of, for the message if it is too large.

    Raises:
      UserError: if the data holds less than one batch, the run has no step, or too many.
    """
    steps_per_epoch = num_examples // config.batch_size
    if steps_per_epoch == 0:
        largest = num_examples // multiple * multiple
        remedy = f"the largest that does is {largest}" if largest else "use more images"
        raise UserError(
            f"batch_size={config.batch_size} is larger than the data set ({num_examples} images); "
            + remedy
        )
    total = _to_steps("duration", config.duration, config.batch_size, steps_per_epoch)
    if total < 1:
        raise UserError(f"duration={config.duration!r} is less than one step; make it longer")
    if total > MOST_STEPS:
        raise UserError(
            f"duration={config.duration!r} is {total:,} steps; a run has at most {MOST_STEPS:,}"
        )
    return Plan(config.batch_size, steps_per_epoch, total)
