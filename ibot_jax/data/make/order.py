"""In which order a process makes its examples: the places of a batch, and what lies on them."""

import functools
import threading
from collections.abc import Sequence

import numpy as np

from ibot_jax.config.plan import Plan
from ibot_jax.data.make.examples import ORDER, stream
from ibot_jax.parallel.shares import Rows


class Positions:
    """Where in the run the examples of one process lie.

    A position counts the examples of this process in some steps of the run, from the first one on.
    """

    def __init__(self, plan: Plan, rows: Rows, steps: Sequence[int]):
        self.rows = rows
        self._steps = steps
        self._steps_per_epoch = plan.steps_per_epoch

    def locate(self, position: int) -> tuple[int, int, int]:
        """Returns step, epoch, and place in the epoch (over all processes) of an example."""
        number, row = divmod(int(position), len(self.rows))
        step = int(self._steps[number])
        epoch, step_of_epoch = divmod(step, self._steps_per_epoch)
        place = step_of_epoch * self.rows.batch_size + int(self.rows.numbers[row])
        return step, epoch, place

    def row(self, position: int) -> int:
        """Returns the row of its batch (over all processes) that an example is."""
        return int(self.rows.numbers[int(position) % len(self.rows)])


class EpochOrder:
    """The order of the examples, a permutation for each epoch."""

    def __init__(self, seed: int, num_examples: int):
        self._lock = threading.Lock()  # a late thread would compute it a second time
        # Two are kept: at the boundary of epochs, threads work on both.
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: stream(seed, epoch, 0, ORDER).permutation(num_examples)
        )

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns [num_examples] int64, the order of one epoch."""
        with self._lock:
            return self._permutation(epoch)
