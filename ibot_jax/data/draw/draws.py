"""Random numbers made many at a time: one by one, each would cost a call of NumPy."""

import itertools

import numpy as np

_AT_A_TIME = 128  # about what one purpose of an example takes


class Draws:
    """Draws from a generator of NumPy, for functions that draw a few hundred numbers one by one.

    Attributes:
      random: a function that returns the next number, uniform in [0, 1).
      permutation: of the generator.
    """

    def __init__(self, rng: np.random.Generator):
        blocks = iter(lambda: rng.random(_AT_A_TIME).tolist(), None)
        self.random = itertools.chain.from_iterable(blocks).__next__
        self.permutation = rng.permutation

    def integers(self, limit: int) -> int:
        """Returns a whole number, uniform from 0 to `limit` - 1."""
        return int(limit * self.random())
