"""Whether there is memory for what an evaluation is asked for."""

import math

import jax

from ibot_jax.config.host import host_memory, in_words
from ibot_jax.errors import UserError
from ibot_jax.models import counts
from ibot_jax.models.build import attention_in_memory
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.layouts import num_shards
from ibot_jax.weights.model import Model


def check_images(
    named: str, number: int, size: tuple[int, int], model: Model, *, resize: int = 0
) -> None:
    """Makes sure that there is memory for images on their way through a backbone.

    Args:
      named: the flags that say what is asked for, for the message.
      number: of images at a time.
      size: their height and width in pixels.
      model: whose backbone it is.
      resize: shorter side of an image before it is cropped.

    Raises:
      UserError: on all processes, if one has not.
    """
    config = model.config
    item = 2 if config.dtype == "bfloat16" else 4
    stages = counts.stages(config.model, size, config.data.global_size)
    largest = max(stage.tokens * stage.width for stage in stages)
    needed = math.prod(size) * config.data.channels * (1 + item) + largest * item
    needed += attention_in_memory(config.model, stages, config.dtype) * item
    needed = number * needed + resize**2 * config.data.channels
    limit = max(host_memory(), _of_a_device() * jax.local_device_count())
    _require(named, needed, limit)


def check_spread(named: str, needed: float, mesh: jax.sharding.Mesh) -> None:
    """Makes sure that the devices together have memory for arrays that are spread over them.

    Args:
      named: the flags that say what is asked for, for the message.
      needed: bytes.
      mesh: the devices.

    Raises:
      UserError: on all processes, if those of one have not.
    """
    share = jax.local_device_count() / num_shards(mesh)
    limit = _of_a_device() * jax.local_device_count() or host_memory()
    _require(named, needed * min(share, 1), limit)


def _of_a_device() -> float:
    """Returns the bytes of memory of a device that has its own; 0 where that is the host's."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 0
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)


def _require(named: str, needed: float, limit: float) -> None:
    with same_end():  # hosts differ
        if needed > limit:
            raise UserError(
                f"{named} takes {in_words(needed)} of memory at the least, and there are "
                f"{in_words(limit)}; lower it"
            )
