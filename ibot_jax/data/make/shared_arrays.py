"""Arrays in memory that two processes share.

The memory is a file without a name, known by its descriptor: it needs no cleaning up, for it ends
with the last process that has it, however that ends.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np

ALIGNMENT = 64  # bytes


def create(blank: Sequence[np.ndarray], rows: int) -> int:
    """Returns a file descriptor for `rows` times the arrays of `blank`; the caller closes it."""
    if hasattr(os, "memfd_create"):  # Linux
        descriptor = os.memfd_create("ibot_jax")
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, _offsets(blank, rows)[-1])
    return descriptor


def attach(descriptor: int, blank: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Returns the arrays, [rows, ...] for each of `blank`, that lie in a file of `create`."""
    offsets = _offsets(blank, rows)
    memory = mmap.mmap(descriptor, offsets[-1])
    return [
        np.ndarray((rows, *array.shape), array.dtype, memory, offset)
        for array, offset in zip(blank, offsets, strict=False)
    ]


def _offsets(blank: Sequence[np.ndarray], rows: int) -> list[int]:
    """Returns where each array begins, and at last where they end, in bytes."""
    sizes = [-(-rows * array.nbytes // ALIGNMENT) * ALIGNMENT for array in blank]
    return [0, *np.cumsum(sizes).tolist()]
