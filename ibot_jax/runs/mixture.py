"""Metrics of a run on a mixture: how many images of a batch each source has, and how many are bad.

A source of which little is seen may be broken as a whole and still stay below `data.max_bad_share`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ibot_jax.data.make.chunks import ORIGIN
from ibot_jax.methods.step import Metrics
from ibot_jax.parallel.layouts import replicated


def told_by_source(
    step: Callable[..., tuple[Any, Metrics]], number: int, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[Any, Metrics]]:
    """Returns a training step whose metrics also tell of each source of a mixture.

    They are, counted from 1, `source_1_images`, the images of the batch that come from it, and
    `source_1_bad_share`, the share of these that could not be read and were replaced by others of
    the source: over the whole batch, whichever process made it.

    Args:
      step: takes a state, a global batch, and more.
      number: of sources, S.
      mesh: the devices.
    """

    def count(source: jax.Array, replaced: jax.Array) -> Metrics:
        of_each = source[:, None] == jnp.arange(number)[None]  # [B, S]
        images = jnp.sum(of_each, axis=0)
        bad = jnp.sum(of_each & replaced[:, None], axis=0) / jnp.maximum(images, 1)
        metrics = {}
        for index in range(number):
            metrics[f"source_{index + 1}_images"] = images[index]
            metrics[f"source_{index + 1}_bad_share"] = bad[index]
        return metrics

    count = jax.jit(count, out_shardings=replicated(mesh))

    def told(state: Any, batch: dict[str, jax.Array], *arguments: Any) -> tuple[Any, Metrics]:
        origin = [batch[name] for name in ORIGIN]
        rest = {name: array for name, array in batch.items() if name not in ORIGIN}
        state, metrics = step(state, rest, *arguments)
        return state, metrics | count(*origin)

    return told
