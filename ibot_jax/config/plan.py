"""How long a run is, in steps."""

import dataclasses
import math

from ibot_jax.config import durations
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError

MOST_STEPS = 2**31 - 1  # a step is an int32


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


def peak_rate(lr: float, batch_size: int, scaling: str = "linear") -> float:
    """Returns the learning rate of a batch.

    Args:
      lr: the rate for 256 images.
      batch_size: images a step.
      scaling: how the rate grows with the batch: "linear" (Goyal et al., 1706.02677), "sqrt", as
        the square root (DINOv2), or "none".
    """
    if scaling == "linear":
        return lr * batch_size / 256
    return lr * math.sqrt(batch_size / 256) if scaling == "sqrt" else lr


def _to_steps(key: str, text: str, *lengths: int) -> int:
    try:
        return durations.to_steps(text, *lengths)
    except ValueError as error:
        raise UserError(f"{key}={text!r} {error}") from None


def make_plan(config: Section, num_examples: int, *, multiple: int = 1) -> Plan:
    """Derives the run's length from the config and the number of training examples.

    Args:
      config: batch size and duration of the run.
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
