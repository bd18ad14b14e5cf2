"""Rows of a batch in plain numbers, for all who make them; nothing here imports JAX."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of every batch that a process makes, out of B.

    Attributes:
      shares: the rows of each process, ascending, and the shares by their first row; processes
        whose devices hold the same rows have one share.
      own: which of the shares is this process's.
    """

    shares: tuple[tuple[int, ...], ...]
    own: int

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """Of this process's rows, [b] int64, ascending: the order in which it passes them on."""
        return np.array(self.shares[self.own])

    @functools.cached_property
    def batch_size(self) -> int:
        """How many rows a batch has over all processes, B."""
        return 1 + max(share[-1] for share in self.shares)

    def __len__(self) -> int:
        """Returns how many of them are this process's, b."""
        return len(self.shares[self.own])


def all_rows(batch_size: int) -> Rows:
    """Returns the rows of a process that is alone: all of them."""
    return Rows((tuple(range(batch_size)),), 0)
