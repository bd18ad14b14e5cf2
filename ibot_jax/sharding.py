"""Where arrays live: the mesh and the layout of state and batches. No other file knows devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data",)  # the mesh axes over which examples are spread


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data", of these devices or of all of all processes."""
    # Auto: XLA's partitioner propagates layouts from the step's inputs.
    number = jax.device_count() if devices is None else len(devices)
    return jax.make_mesh((number,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def has_cudnn_attention() -> bool:
    """Returns whether cuDNN's fused attention runs here: on NVIDIA GPUs from Ampere on."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "0.0")
    return jax.default_backend() == "gpu" and float(capability) >= 8


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of the training state: a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples, the leading axis, over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def per_device(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Lets a function run on each device with that device's rows, under manual control.

    Args:
      function: of (shared, rows): a tree whose arrays are the same everywhere, and one of arrays
        that lead with the examples. What it returns must be reduced over `BATCH_AXES`
        (`jax.lax.pmean` and its like). Nothing else in it crosses devices: gradients of `shared`
        are summed over the devices once, behind all of it.
      mesh: the devices.

    Returns:
      The function of global arrays.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXES)),
        out_specs=PartitionSpec(),
        check_vma=False,  # its checker stumbles over jax.lax.erfc in float64
    )


def gathered(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Lets a function run on each device with that device's rows, and joins the columns it returns.

    Args:
      function: of (shared, rows), as for `per_device`; returns a tree of arrays [q, n].
      mesh: the devices.

    Returns:
      The function of global arrays, which returns arrays [q, n * devices], device by device.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXES)),
        out_specs=PartitionSpec(None, BATCH_AXES),
    )


def spread(array: np.ndarray, mesh: Mesh, rows: int, fill: int = 0) -> jax.Array:
    """Lays an array that all processes have out over the devices, one after the other.

    Args:
      array: [M, ...]; may be mapped from disk, of which each process reads its devices' rows.
      mesh: the devices.
      rows: of each device; together at least M.
      fill: of the rows that no row of `array` is left for.

    Returns:
      [rows * devices, ...].
    """

    def part(index):
        start, stop, _ = index[0].indices(rows * mesh.size)
        own = np.asarray(array[start:stop])
        missing = stop - start - len(own)
        return np.pad(own, ((0, missing), *((0, 0),) * (own.ndim - 1)), constant_values=fill)

    shape = (rows * mesh.size, *array.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins each process's share of a batch, [B / processes, ...], to global arrays [B, ...]."""
    layout = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(layout, array) for name, array in batch.items()
    }
