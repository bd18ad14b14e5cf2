"""Batches of what a Python function makes: tf.data orders, parallelises, batches and prefetches.

tf.data calls back into Python (`numpy_function`), which passes chunks of a batch on to worker
processes. They write to memory that all share; what tf.data batches are the few numbers that come
with it.
"""

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ibot_jax.data.make.shared_arrays import SharedBatches
from ibot_jax.data.make.workers import Workers
from ibot_jax.files.tf import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

PREFETCH = 2  # batches
CHUNK_BYTES = 16 * 2**20  # of the arrays that a worker makes at a time; fewer cost more calls


def chunk_rows(blank: Sequence[np.ndarray], batch_size: int) -> int:
    """Returns how many rows, a divisor of the batch size, a worker makes at a time."""
    row_bytes = sum(array.nbytes for array in blank)
    divisors = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    return max([size for size in divisors if size * row_bytes <= CHUNK_BYTES], default=1)


def run_batches(
    inputs: Iterator["tf.data.Dataset"],
    make: Callable[..., Sequence[np.ndarray]],
    beside: Sequence[np.ndarray],
    chunk: int,
    batch_size: int,
    workers: Workers,
) -> Iterator[list[np.ndarray]]:
    """Returns batches of what `make` makes of the elements of the data sets, in their order.

    Memory is bounded by those that are begun, `PREFETCH` and those that are held outside.

    Args:
      inputs: data sets, one after the other, each a whole number of batches; their elements are
        the arguments of `make`.
      make: takes a place of the workers' batches, the first of K rows that it fills, and arguments
        stacked to [K, ...]; returns arrays [K, ...] besides.
      beside: arrays of the shapes and dtypes of one row of what it returns.
      chunk: rows that `make` makes at a time, K; divides the batch size.
      batch_size: rows of a batch.
      workers: what `make` uses; they are closed at the end.

    Returns:
      An iterator of lists of arrays [batch_size, ...], the workers' and then those besides, which
      raises what `make` raised.
    """
    begun = _Begun(workers.batches, batch_size // chunk)

    def make_chunk(number: int, *args: np.ndarray) -> Sequence[np.ndarray]:
        place, part = begun.place(int(number))
        return make(place, part * chunk, *args)

    guarded = _Guarded(make_chunk, [np.repeat(array[None], chunk, axis=0) for array in beside])

    def generate():
        done = 0
        try:
            for dataset in inputs:
                first = done * (batch_size // chunk)
                batches = _map_and_batch(dataset, first, guarded, chunk, batch_size, workers.count)
                for _, *arrays in batches.as_numpy_iterator():
                    guarded.raise_failure()
                    joined = [array.reshape(batch_size, *array.shape[2:]) for array in arrays]
                    yield [*begun.end(done), *joined]
                    done += 1
        finally:
            workers.close()

    running = generate()
    _running.add(running)
    return running


class _Begun:
    """The batches of which some chunks are made, each with a place in the memory of all."""

    def __init__(self, batches: SharedBatches, parts: int):
        self._batches, self._parts = batches, parts
        self._taken: dict[int, tuple[int, list[np.ndarray]]] = {}
        self._lock = threading.Lock()

    def place(self, chunk: int) -> tuple[int, int]:
        """Returns the place of a chunk's batch, and which of its parts the chunk is."""
        batch, part = divmod(chunk, self._parts)
        with self._lock:
            if batch not in self._taken:
                self._taken[batch] = self._batches.take()
            return self._taken[batch][0], part

    def end(self, batch: int) -> list[np.ndarray]:
        """Returns the arrays of a batch that is whole; its place is theirs."""
        with self._lock:
            return self._taken.pop(batch)[1]


_running: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _stop_running() -> None:
    """Ends tf.data's threads while they can still run Python; after, they would block the exit."""
    for batches in list(_running):
        batches.close()


def _map_and_batch(
    dataset: "tf.data.Dataset",
    first: int,
    guarded: "_Guarded",
    chunk: int,
    batch_size: int,
    threads: int,
) -> "tf.data.Dataset":
    """Returns a data set of batches of chunks: their numbers, and an array for each of the blank.

    Shapes are [batch_size / chunk] and [batch_size / chunk, chunk, ...].
    """
    tf = import_tensorflow()

    def call(number, args):
        args = args if isinstance(args, tuple) else (args,)
        results = tf.numpy_function(
            guarded, (number, *args), [np.int64, *(array.dtype for array in guarded.blank)]
        )
        for result, shape in zip(results, [(), *(x.shape for x in guarded.blank)], strict=True):
            result.set_shape(shape)
        return tuple(results)

    options = tf.data.Options()
    options.autotune.enabled = False  # it would grow buffers up to a share of the host's memory
    options.threading.private_threadpool_size = threads
    dataset = dataset.batch(chunk, drop_remainder=True).enumerate(first)
    dataset = dataset.map(call, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.batch(batch_size // chunk, drop_remainder=True)
    return dataset.prefetch(PREFETCH).with_options(options)


class _Guarded:
    """A function whose exceptions do not pass through tf.data, which would bury them.

    After the first one it returns the blank result without work, so that the pipeline runs on until
    its consumer calls `raise_failure`.
    """

    def __init__(self, function: Callable[..., Sequence[np.ndarray]], blank: list[np.ndarray]):
        self.blank = blank
        self._function = function
        self._failure: Exception | None = None

    def __call__(self, number: np.int64, *args: Any) -> Sequence[np.ndarray]:
        """Returns the number, and what the function returns for it and the other arguments."""
        if self._failure is None:
            try:
                return number, *self._function(number, *args)
            except Exception as error:
                self._failure = error
        return number, *self.blank

    def raise_failure(self) -> None:
        """Raises what went wrong."""
        if self._failure is not None:
            raise self._failure
