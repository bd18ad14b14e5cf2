"""Which rows of a batch are a process's."""

import jax
import numpy as np
from jax.sharding import Mesh

from ibot_jax.parallel.layouts import batch_sharding


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins each process's share of a batch, [B / processes, ...], to global arrays [B, ...]."""
    layout = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(layout, array) for name, array in batch.items()
    }
