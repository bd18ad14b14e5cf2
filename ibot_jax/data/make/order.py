"""In which order a process makes its examples: the places of a batch, and what lies on them."""

import functools
import threading
from collections.abc import Sequence

import numpy as np

from ibot_jax.config.plan import Plan
from ibot_jax.data.make.examples import ORDER, stream
from ibot_jax.data.sources.mixture import MixedSource
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
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


class MixedOrder:
    """The order of a mixture: of each source its share, all of it as often as the rest of it.

    Images are numbered through all sources. Where a source has to be gone through again within an
    epoch, the numbers go on behind the last image, n of all for the first repetition, so that what
    is drawn for an image by its number is not drawn twice in an epoch.
    """

    def __init__(self, seed: int, sizes: Sequence[int], counts: Sequence[int]):
        """Prepares it.

        Args:
          seed: of the run.
          sizes: how many images the sources have.
          counts: how many of them an epoch has.
        """
        self._seed, self._sizes, self._counts = seed, sizes, counts
        self._lock = threading.Lock()
        self._order = functools.lru_cache(maxsize=2)(self._of_epoch)
        self._permutation = functools.lru_cache(maxsize=2 * len(sizes))(
            lambda number, turn: stream(seed, turn, 1 + number, ORDER).permutation(sizes[number])
        )

    def __call__(self, epoch: int) -> np.ndarray:
        """Returns [sum of counts] int64, the numbers of the images of one epoch."""
        with self._lock:
            return self._order(epoch)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        total, before, parts = sum(self._sizes), 0, []
        for number, (size, count) in enumerate(zip(self._sizes, self._counts, strict=True)):
            first, last = epoch * count, (epoch + 1) * count
            for turn in range(first // size, -(-last // size)):
                some = self._permutation(number, turn)
                some = some[max(first - turn * size, 0) : last - turn * size]
                parts.append(some + before + (turn - first // size) * total)
            before += size
        order = np.concatenate(parts)
        return order[stream(self._seed, epoch, 0, ORDER).permutation(len(order))]


def order_of(source: Source | TfdsStream, seed: int) -> EpochOrder | MixedOrder:
    """Returns the order of the images of a source in a run with this seed."""
    if isinstance(source, MixedSource):
        return MixedOrder(seed, list(map(len, source.parts)), source.counts)
    return EpochOrder(seed, len(source))
