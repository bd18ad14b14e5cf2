"""Batches of what a Python function makes: tf.data orders, parallelises, batches and prefetches.

tf.data calls back into Python (`numpy_function`), which passes chunks of a batch on to worker
processes.
"""

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    blank: Sequence[np.ndarray],
    chunk: int,
    batch_size: int,
    workers: Workers,
) -> Iterator[list[np.ndarray]]:
    """Returns batches of what `make` makes of the elements of the data sets, in their order.

    Memory is bounded by a chunk for each worker and `PREFETCH` batches.

    Args:
      inputs: data sets, one after the other, each a whole number of batches; their elements are
        the arguments of `make`.
      make: takes arguments stacked to [K, ...] and returns arrays [K, ...].
      blank: arrays of the shapes and dtypes of one row.
      chunk: rows that `make` makes at a time, K; divides the batch size.
      batch_size: rows of a batch.
      workers: what `make` uses; they are closed at the end.

    Returns:
      An iterator of lists of arrays [batch_size, ...], which raises what `make` raised.
    """
    guarded = _Guarded(make, [np.repeat(array[None], chunk, axis=0) for array in blank])

    def generate():
        try:
            for dataset in inputs:
                batches = _map_and_batch(dataset, guarded, chunk, batch_size, workers.count)
                for batch in batches.as_numpy_iterator():
                    guarded.raise_failure()
                    yield [array.reshape(batch_size, *array.shape[2:]) for array in batch]
        finally:
            workers.close()

    running = generate()
    _running.add(running)
    return running


_running: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _stop_running() -> None:
    """Ends tf.data's threads while they can still run Python; after, they would block the exit."""
    for batches in list(_running):
        batches.close()


def _map_and_batch(
    dataset: "tf.data.Dataset", guarded: "_Guarded", chunk: int, batch_size: int, threads: int
) -> "tf.data.Dataset":
    """Returns a data set of arrays [batch_size / chunk, chunk, ...], one for each of the blank."""
    tf = import_tensorflow()

    def call(*args):
        results = tf.numpy_function(guarded, args, [array.dtype for array in guarded.blank])
        for result, array in zip(results, guarded.blank, strict=True):
            result.set_shape(array.shape)
        return tuple(results)

    options = tf.data.Options()
    options.autotune.enabled = False  # it would grow buffers up to a share of the host's memory
    options.threading.private_threadpool_size = threads
    dataset = dataset.batch(chunk, drop_remainder=True)
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

    def __call__(self, *args: Any) -> Sequence[np.ndarray]:
        if self._failure is None:
            try:
                return self._function(*args)
            except Exception as error:
                self._failure = error
        return self.blank

    def raise_failure(self) -> None:
        """Raises what went wrong."""
        if self._failure is not None:
            raise self._failure
