"""Features sharded over the devices, row by row, and what is computed of each device's rows."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ibot_jax.parallel.layouts import batch_sharding, num_shards
from ibot_jax.parallel.mesh import BATCH_AXES


def shard(array: np.ndarray, mesh: Mesh, rows: int, fill: int = 0) -> jax.Array:
    """Shards an array that all processes have over the devices, one after the other.

    Args:
      array: [M, ...]; may be mapped from disk, of which each process reads its devices' rows.
      mesh: the devices.
      rows: of each device; together at least M.
      fill: of the rows that no row of `array` is left for.

    Returns:
      [rows * devices, ...].
    """
    total = rows * num_shards(mesh)

    def of_device(index):
        start, stop, _ = index[0].indices(total)
        own = np.asarray(array[start:stop])
        missing = stop - start - len(own)
        return np.pad(own, ((0, missing), *((0, 0),) * (own.ndim - 1)), constant_values=fill)

    return jax.make_array_from_callback((total, *array.shape[1:]), batch_sharding(mesh), of_device)


def joined(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Lets a function run on each device with that device's rows, and joins the columns it returns.

    Args:
      function: of (shared, rows): a tree whose arrays are the same everywhere, and one of arrays
        that are sharded; returns a tree of arrays [q, n].
      mesh: the devices.

    Returns:
      The function of global arrays, which returns arrays [q, n * devices], device by device.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXES)),
        out_specs=PartitionSpec(None, BATCH_AXES),
        check_vma=False,
    )


def summed(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Lets a function run on each device with that device's rows, and adds up what it returns.

    Args:
      function: of (shared, rows), as for `joined`; returns a tree of arrays.
      mesh: the devices.

    Returns:
      The function of global arrays; it may be differentiated by `shared`.
    """
    return jax.shard_map(
        lambda shared, rows: jax.lax.psum(function(shared, rows), BATCH_AXES),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXES)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
