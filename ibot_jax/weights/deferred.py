"""Arrays that are still in a file, so that models pass through that are larger than the memory."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """An array that `np.asarray` reads, each time anew.

    Attributes:
      shape: of the array.
      dtype: of the array.
      read: returns it; raises a UserError where it cannot be read, or is no weight.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns the array, as NumPy asks for it."""
        return np.asarray(self.read(), dtype)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes in memory."""
        return self.size * self.dtype.itemsize


Array = np.ndarray | Deferred


def mapped(function: Callable[..., np.ndarray], *arrays: Array) -> Array:
    """Returns a function of arrays, deferred if one of them is; it must not look at the numbers."""
    if all(isinstance(array, np.ndarray) for array in arrays):
        return function(*arrays)
    zeros = (np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in arrays)
    like = function(*zeros)
    return Deferred(like.shape, like.dtype, lambda: function(*map(np.asarray, arrays)))


def split(array: Array, parts: int) -> Sequence[Array]:
    """Returns equal parts along the first axis."""
    return [mapped(lambda x, part=part: np.split(x, parts)[part], array) for part in range(parts)]
