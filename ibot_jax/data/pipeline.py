"""The input pipeline: tf.data orders, parallelises, batches and prefetches.

Its elements are made in worker processes: tf.data calls back into Python (`numpy_function`), which
passes chunks of a batch on to them.
"""

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from ibot_jax.config import Plan
from ibot_jax.data.bad_images import BadImages
from ibot_jax.data.chunks import EvalChunks, TrainChunks
from ibot_jax.data.examples import ORDER, MakeCentralView, MakeExample, Positions, stream
from ibot_jax.data.resize import check_method
from ibot_jax.data.sources import Source
from ibot_jax.data.tf import import_tensorflow
from ibot_jax.data.tfds import TfdsStream
from ibot_jax.data.workers import Workers
from ibot_jax.errors import TrainingError

if TYPE_CHECKING:
    import tensorflow as tf

PREFETCH = 2  # batches
CHUNK_BYTES = 4 * 2**20  # of the arrays that a worker makes at a time
# In the order of `MakeExample`'s arrays; the last two only where the accelerator needs them.
BATCH_KEYS = ("global_views", "local_views", "masks", "global_colors", "local_colors")

Batch = dict[str, np.ndarray]


def train_batches(
    source: Source | TfdsStream,
    config: ConfigDict,
    plan: Plan,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainBatches":
    """Returns this process's share of every batch from `start_step` to the end of the run.

    Row j of step s is example `permutation(seed, epoch)[(s % steps_per_epoch) * batch_size + j]`
    of epoch `s // steps_per_epoch`; process p has the b = batch_size / process_count rows from
    j = p * b on. The batches are therefore a function of (seed, step) alone: a resumed run sees
    the rest of the same stream, and so does another number of processes. (For sequential TFDS data
    see `tfds.TfdsStream`.) An image that cannot be read is replaced by another one.

    Returns:
      An iterator of dicts of arrays:
        global_views: [b, G, H, W, C] uint8.
        local_views: [b, L, H', W', C] uint8; L may be 0.
        masks: [b, G, h, w] bool, True = masked; all False before `masks.start`.
        global_colors: [b, G, 12] float32, the columns of `colors.COLUMNS`: what is left to do
          to the global views; absent, as the next, where `data.augment` is "host".
        local_colors: [b, L, 12] float32.
      It raises `TrainingError` when the share of bad images passes `data.max_bad_share`.
    """
    positions = Positions(plan, process_index, process_count)
    check_method(config.data.resize)
    make_example = MakeExample(source.fetch, config)
    blank = make_example.blank()
    chunk = _chunk_rows(blank, positions.rows)
    workers = Workers(make_example, config.data.workers, chunk)
    bad_images = BadImages(len(source), config.data.max_bad_share)
    chunks = TrainChunks(source, config, plan, positions, workers, bad_images)
    if isinstance(source, TfdsStream):
        make = chunks.from_records
        inputs = _epochs(source, config.seed, plan, start_step, process_index, process_count)
    else:
        make = chunks.from_positions
        first, last = start_step * positions.rows, plan.total_steps * positions.rows
        inputs = iter([import_tensorflow().data.Dataset.range(first, last)])
    batches = _run(inputs, make, blank, chunk, positions.rows, workers)
    return TrainBatches(batches, bad_images)


class TrainBatches:
    """The iterator that `train_batches` returns; its threads and processes end when it is dropped.

    Attributes:
      bad_images: how many different images could not be read so far.
    """

    def __init__(self, batches: Iterator[list[np.ndarray]], bad_images: BadImages):
        self._batches = batches
        self._bad_images = bad_images

    @property
    def bad_images(self) -> int:
        return len(self._bad_images)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return dict(zip(BATCH_KEYS, next(self._batches), strict=False))


def eval_batches(
    source: Source | TfdsStream,
    size: tuple[int, int],
    resize: int,
    batch_size: int,
    channels: int = 3,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yields every image once: shorter side resized to `resize`, then the centre of `size` cut.

    With B = batch_size for each process and P processes, example i is row i % B of batch
    i // (P * B) of process i // B % P: batches laid out over the processes keep the source's order.
    (Sequential TFDS data: process p has the p-th contiguous part.) All processes yield the same
    number of batches. Rows that only fill up, and images that cannot be read, are not valid.

    Args:
      source: what to read.
      size: height and width of the images, pixels.
      resize: shorter side before the crop, pixels.
      batch_size: images a batch and process, B.
      channels: of the source.
      process_index: of this process.
      process_count: of the run.

    Yields:
      Dicts of arrays: images [B, H, W, C] uint8, labels [B] int32 (-1 where there is none),
      valid [B] bool.
    """
    tf = import_tensorflow()
    make_view = MakeCentralView(source.fetch, resize, tuple(size), channels)
    chunk = _chunk_rows(make_view.blank(), batch_size)
    workers = Workers(make_view, 0, chunk)
    chunks = EvalChunks(source, batch_size, process_index, process_count, workers)
    length = -(-len(source) // (process_count * batch_size)) * batch_size
    if isinstance(source, TfdsStream):
        make = chunks.from_records
        filler = tf.data.Dataset.from_tensors((b"", -1, b"")).repeat()
        records = source.records(process_index, process_count)
        dataset = records.concatenate(filler).take(length)
    else:
        make = chunks.from_positions
        dataset = tf.data.Dataset.range(length)
    blank = (*make_view.blank(), np.zeros((), np.int32), np.zeros((), bool))
    for images, labels, valid in _run(iter([dataset]), make, blank, chunk, batch_size, workers):
        yield {"images": images, "labels": labels, "valid": valid}


def _epochs(
    source: TfdsStream,
    seed: int,
    plan: Plan,
    start_step: int,
    process_index: int,
    process_count: int,
) -> Iterator["tf.data.Dataset"]:
    """Yields (position, encoded image, name) of each epoch, or of what is left of it."""
    tf = import_tensorflow()
    rows = plan.batch_size // process_count
    length = plan.steps_per_epoch
    for epoch in range(start_step // length, -(-plan.total_steps // length)):
        begin = max(start_step, epoch * length)
        end = min(plan.total_steps, (epoch + 1) * length)
        shuffle_seed = int(stream(seed, epoch, 0, ORDER).integers(2**31))
        records = source.records(process_index, process_count, shuffle_seed=shuffle_seed)
        positions = tf.data.Dataset.range(begin * rows, end * rows)
        unseen = records.skip((begin - epoch * length) * rows)
        yield tf.data.Dataset.zip(positions, unseen).map(
            lambda position, record: (position, record[0], record[2])
        )


def _chunk_rows(blank: Sequence[np.ndarray], batch_size: int) -> int:
    """Returns how many rows, a divisor of the batch size, a worker makes at a time."""
    row_bytes = sum(array.nbytes for array in blank)
    divisors = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    return max([size for size in divisors if size * row_bytes <= CHUNK_BYTES], default=1)


def _run(
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
      An iterator of lists of arrays [batch_size, ...], which raises `TrainingError` where `make`
      raised any exception.
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
        """Raises what went wrong, as a TrainingError."""
        if isinstance(self._failure, TrainingError):
            raise self._failure
        if self._failure is not None:
            message = f"the input pipeline failed: {self._failure!r}"
            raise TrainingError(message) from self._failure
