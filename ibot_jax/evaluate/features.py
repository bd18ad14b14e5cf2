"""Features of a whole data set, on every process."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ibot_jax import sharding

FeatureFn = Callable[[Any, jax.Array], jax.Array]


def extract(
    feature_fn: FeatureFn,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the features of every valid image.

    Every process calls it with its own share of the batches, as many as the others have, and
    gets the features of all.

    Args:
      feature_fn: (params, images [B, H, W, C] uint8) -> features [B, D]; pass the same function
        every time, for it is compiled once.
      params: its parameters.
      batches: dicts of `images` uint8 [b, H, W, C], `labels` int32 [b] and `valid` bool [b],
        False for padding, where b is this process's share of B.
      mesh: the devices.

    Returns:
      Features [M, D] float32 and labels [M] int32, in the order of the batches.
    """
    program = _program(feature_fn, mesh)
    parts = []
    pending = None
    for batch in batches:
        outputs = program(params, sharding.to_global(batch, mesh))
        if pending is not None:  # fetched while the device works on the next batch
            parts.append(_fetch(*pending))
        pending = outputs
    if pending is None:
        raise ValueError("there is no batch to compute features of")
    parts.append(_fetch(*pending))
    features, labels = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(labels)


@functools.lru_cache(maxsize=8)
def _program(feature_fn: FeatureFn, mesh: jax.sharding.Mesh):
    # Labels and padding take the same way as images, so that rows agree whatever the order of
    # devices; replicated outputs are readable on every process.
    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def program(params, batch):
        return feature_fn(params, batch["images"]), batch["labels"], batch["valid"]

    return program


def _fetch(features, labels, valid) -> tuple[np.ndarray, np.ndarray]:
    valid = np.asarray(valid)
    return np.asarray(features, np.float32)[valid], np.asarray(labels)[valid]
