"""Where arrays live: the mesh and the layout of state and batches. No other file knows devices."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """Returns a mesh of all devices of all processes with the one axis "data"."""
    # Auto: XLA's partitioner propagates layouts from the step's inputs.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of the training state: a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples, the leading axis, over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins each process's share of a batch, [B / processes, ...], to global arrays [B, ...]."""
    layout = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(layout, array) for name, array in batch.items()
    }
