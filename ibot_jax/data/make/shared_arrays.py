"""Batches of arrays in memory that several processes share.

The memory is a file without a name, known by its descriptor: it needs no cleaning up, for it ends
with the last process that has it, however that ends. Whoever holds an array of a batch holds its
place in the file; places that nobody holds are used again.
"""

import ctypes
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence

import numpy as np

ALIGNMENT = 64  # bytes


class SharedBatches:
    """Places for batches, as many as are held at a time; safe to use from several threads.

    Attributes:
      descriptor: of the file, which `attach` reads.
    """

    def __init__(self, blank: Sequence[np.ndarray], rows: int):
        """Opens the file, which is empty at first.

        Args:
          blank: arrays of the shapes and dtypes of one row.
          rows: of a batch.
        """
        self.descriptor = _open()
        weakref.finalize(self, os.close, self.descriptor)
        self._blank, self._rows = blank, rows
        self._maps: list[mmap.mmap] = []
        self._free: list[int] = []
        self._lock = threading.Lock()

    def take(self) -> tuple[int, list[np.ndarray]]:
        """Returns the number of a place, and its arrays [rows, ...], whatever is in them.

        The place is taken until the last of the arrays, and of their views, is gone.
        """
        with self._lock:
            if not self._free:
                self._free.append(len(self._maps))
                self._maps.append(self._another())
            number = self._free.pop()
        memory = self._maps[number]
        held = (ctypes.c_char * len(memory)).from_buffer(memory)  # what the arrays refer to
        weakref.finalize(held, self._free.append, number).atexit = False
        return number, _arrays(held, self._blank, self._rows)

    def _another(self) -> mmap.mmap:
        size = _place_size(self._blank, self._rows)
        offset = len(self._maps) * size
        os.ftruncate(self.descriptor, offset + size)
        return mmap.mmap(self.descriptor, size, offset=offset)


def attach(
    descriptor: int, blank: Sequence[np.ndarray], rows: int, number: int
) -> list[np.ndarray]:
    """Returns the arrays of a place that the owner of the file has taken, [rows, ...] each."""
    size = _place_size(blank, rows)
    return _arrays(mmap.mmap(descriptor, size, offset=number * size), blank, rows)


def _open() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("ibot_jax")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def _arrays(
    memory: ctypes.Array | mmap.mmap, blank: Sequence[np.ndarray], rows: int
) -> list[np.ndarray]:
    return [
        np.ndarray((rows, *array.shape), array.dtype, memory, offset)
        for array, offset in zip(blank, _offsets(blank, rows), strict=False)
    ]


def _place_size(blank: Sequence[np.ndarray], rows: int) -> int:
    """Returns the bytes of a place, whole pages."""
    page = mmap.ALLOCATIONGRANULARITY
    return -(-_offsets(blank, rows)[-1] // page) * page


def _offsets(blank: Sequence[np.ndarray], rows: int) -> list[int]:
    """Returns where each array begins, and at last where they end, in bytes."""
    sizes = [-(-rows * array.nbytes // ALIGNMENT) * ALIGNMENT for array in blank]
    return [0, *np.cumsum(sizes).tolist()]
