"""Which rows of a batch are a process's.

The mesh alone says it: a process makes the rows that its devices hold. They need not be one block.
Where the mesh takes devices of several processes in turn, as the slices of TPUs do, they lie apart;
devices share rows over the axis "tensor", within a process, as `runs.check` makes sure.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from ibot_jax.parallel.layouts import batch_sharding, num_shards
from ibot_jax.parallel.shares import Rows


@functools.lru_cache(maxsize=64)
def rows_of_process(mesh: Mesh, batch_size: int) -> Rows:
    """Returns which rows of batches this process makes.

    Args:
      mesh: the devices, some of them of this process.
      batch_size: B, a multiple of the devices over which rows are spread.
    """
    held: dict[int, set[int]] = {}  # by process
    for device, (index,) in batch_sharding(mesh).devices_indices_map((batch_size,)).items():
        held.setdefault(device.process_index, set()).update(range(*index.indices(batch_size)))
    of_process = {process: tuple(sorted(rows)) for process, rows in held.items()}
    shares = tuple(sorted(set(of_process.values())))
    return Rows(shares, shares.index(of_process[jax.process_index()]))


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins what each process has made of a batch to arrays over all devices.

    Args:
      batch: arrays [b, ...] of this process's rows, in the order of `Rows.numbers`.
      mesh: the devices.

    Returns:
      Arrays [B, ...], laid out by `batch_sharding`.
    """
    layout, shards = batch_sharding(mesh), num_shards(mesh)

    def joined(array: np.ndarray) -> jax.Array:
        total = len(array) * shards // len(rows_of_process(mesh, shards))
        numbers = rows_of_process(mesh, total).numbers

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(total)
            first = np.searchsorted(numbers, start)
            return array[first : first + stop - start]

        return jax.make_array_from_callback((total, *array.shape[1:]), layout, shard)

    return {name: joined(array) for name, array in batch.items()}
