"""The input pipeline: the batches of a training, and those of an evaluation."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.masking import DEALT
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.data.batching import chunk_rows, run_batches
from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.draw.dealt_masks import deal
from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.data.make.chunks import EvalChunks, Request, TrainChunks
from ibot_jax.data.make.examples import ORDER, STEPS, MakeCentralView, MakeExample, stream
from ibot_jax.data.make.order import Positions
from ibot_jax.data.make.workers import Task, Workers
from ibot_jax.data.pixels.images import Decoding
from ibot_jax.data.pixels.resize import check_method
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.files.tf import import_tensorflow
from ibot_jax.parallel.shares import Rows

if TYPE_CHECKING:
    import tensorflow as tf

Batch = dict[str, np.ndarray]

_PLAIN = Decoding()


def train_batches(
    source: Source | TfdsStream,
    plan: Plan,
    rows: Rows,
    *,
    seed: int,
    data: Section,
    masks: Section,
    grid: tuple[int, int],
    gram: Section | None = None,
    start_step: int = 0,
) -> "TrainBatches":
    """Returns this process's share of every batch from `start_step` to the end of the run.

    Row j of step s is example `permutation(seed, epoch)[(s % steps_per_epoch) * batch_size + j]`
    of epoch `s // steps_per_epoch`, whichever process makes it. The batches are therefore a
    function of (seed, step) alone: a resumed run sees the rest of the same stream, and so do other
    numbers of processes and other orders of devices. (For sequential TFDS data see
    `tfds.TfdsStream`.) An image that cannot be read is replaced by another one.

    Args:
      source: what to read.
      plan: of the run.
      rows: of a batch that this process makes, b of them.
      seed: of the run.
      data: how views are made, and by whom.
      masks: how masks are drawn, and from when on.
      grid: rows and columns of masks, those of the backbone for a global view.
      gram: what the gram teacher sees, and from when on; None without.
      start_step: of the first batch.

    Returns:
      An iterator of dicts of arrays:
        global_views: [b, G, H, W, C] uint8.
        local_views: [b, L, H', W', C] uint8; L may be 0.
        masks: [b, G, h, w] bool, True = masked; all False before `masks.start`.
        global_colors: [b, G, 12] float32, the columns of `colors.COLUMNS`: what is left to do
          to the global views; absent, as the next, where `data.augment` is "host".
        local_colors: [b, L, 12] float32.
        gram_views: [b, G, H'', W'', C] uint8, the global views as the gram teacher sees them, all 0
          before `gram.start`; absent where there is none.
      It raises `TrainingError` when the share of bad images passes `data.max_bad_share`.
    """
    check_method(data.resize)
    mask_start = plan.steps("masks.start", masks.start)
    gram_start = plan.steps("gram.start", gram.start) if gram is not None else 0

    @functools.lru_cache(maxsize=8)  # threads work on a few batches at a time
    def steps(step: int) -> np.ndarray:
        """Returns [B, G, 2]: the steps of the ratio dealt out over the views of a whole batch."""
        rng = stream(seed, 0, step, STEPS)
        views = rows.batch_size * data.global_views
        return deal(rng, views, masks.share, masks.range).reshape(rows.batch_size, -1, 2)

    def arguments(request: Request) -> tuple:
        masked = request.step >= mask_start
        if masked and masks.kind in DEALT:
            masked = steps(request.step)[request.row]
        return request.located, request.epoch, request.index, masked, request.step >= gram_start

    views = {}
    if gram is not None and anchor_is_kept(gram):
        views = dict(gram_size=gram_size(gram, data), gram_colors=gram.colors)
    task = MakeExample(source.fetch, seed, data, masks, grid, **views)
    return task_batches(
        source,
        task,
        arguments,
        task.keys,
        plan,
        rows,
        seed=seed,
        data=data,
        start_step=start_step,
    )


def task_batches(
    source: Source | TfdsStream,
    task: Task,
    arguments: Callable[[Request], tuple],
    keys: Sequence[str],
    plan: Plan,
    rows: Rows,
    *,
    seed: int,
    data: Section,
    start_step: int,
) -> "TrainBatches":
    """Returns batches, as `train_batches` does, of whatever a task makes of an example.

    Args:
      source: what to read.
      task: what workers do.
      arguments: of the task, for an example.
      keys: of the batches, one for each of the task's arrays.
      plan: of the run.
      rows: of a batch that this process makes.
      seed: of the run.
      data: with `workers` and `max_bad_share`.
      start_step: of the first batch.
    """
    blank = task.blank()
    chunk = chunk_rows(blank, len(rows))
    workers = Workers(task, data.workers, chunk)
    bad_images = BadImages(len(source), data.max_bad_share)
    positions = Positions(plan, rows)
    chunks = TrainChunks(source, seed, positions, workers, arguments, bad_images)
    if isinstance(source, TfdsStream):
        make = chunks.from_records
        inputs = _epochs(source, seed, plan, rows, start_step)
    else:
        make = chunks.from_positions
        first, last = start_step * len(rows), plan.total_steps * len(rows)
        inputs = iter([import_tensorflow().data.Dataset.range(first, last)])
    batches = run_batches(inputs, make, blank, chunk, len(rows), workers)
    return TrainBatches(batches, keys, bad_images)


class TrainBatches:
    """The iterator that `task_batches` returns; its threads and processes end when it is dropped.

    Attributes:
      bad_images: how many different images could not be read so far.
    """

    def __init__(
        self, batches: Iterator[list[np.ndarray]], keys: Sequence[str], bad_images: BadImages
    ):
        self._batches = batches
        self._keys = keys
        self._bad_images = bad_images

    @property
    def bad_images(self) -> int:
        return len(self._bad_images)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return dict(zip(self._keys, next(self._batches), strict=False))


def eval_batches(
    source: Source | TfdsStream,
    view: CentralView,
    rows: Rows,
    decoding: Decoding = _PLAIN,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yields the central view of every image once.

    Example i is row i % B of batch i // B, whichever process makes it: batches that all processes
    have joined keep the source's order. (Sequential TFDS data: of each batch, a process's rows are
    the next images of its own part of the data.) All processes yield the same number of batches.
    Rows that only fill up, and images that cannot be read, are not valid.

    Args:
      source: what to read.
      view: how images are resized and cut.
      rows: of a batch of B that this process makes, b of them.
      decoding: how files become pixels.
      workers: processes that make the images; 0 takes one for each core.

    Yields:
      Dicts of arrays: images [b, H, W, C] uint8, labels [b] int32 (-1 where there is none),
      valid [b] bool.
    """
    tf = import_tensorflow()
    make_view = MakeCentralView(source.fetch, view, decoding)
    chunk = chunk_rows(make_view.blank(), len(rows))
    pool = Workers(make_view, workers, chunk)
    chunks = EvalChunks(source, rows, pool)
    length = -(-len(source) // rows.batch_size) * len(rows)
    if isinstance(source, TfdsStream):
        make = chunks.from_records
        filler = tf.data.Dataset.from_tensors((b"", -1, b"")).repeat()
        records = source.records(rows.own, len(rows.shares))
        dataset = records.concatenate(filler).take(length)
    else:
        make = chunks.from_positions
        dataset = tf.data.Dataset.range(length)
    blank = (*make_view.blank(), np.zeros((), np.int32), np.zeros((), bool))
    for images, labels, valid in run_batches(iter([dataset]), make, blank, chunk, len(rows), pool):
        yield {"images": images, "labels": labels, "valid": valid}


def _epochs(
    source: TfdsStream,
    seed: int,
    plan: Plan,
    rows: Rows,
    start_step: int,
) -> Iterator["tf.data.Dataset"]:
    """Yields (position, encoded image, label, name) of each epoch, or of what is left of it."""
    tf = import_tensorflow()
    length = plan.steps_per_epoch
    for epoch in range(start_step // length, -(-plan.total_steps // length)):
        begin = max(start_step, epoch * length)
        end = min(plan.total_steps, (epoch + 1) * length)
        shuffle_seed = int(stream(seed, epoch, 0, ORDER).integers(2**31))
        records = source.records(rows.own, len(rows.shares), shuffle_seed=shuffle_seed)
        positions = tf.data.Dataset.range(begin * len(rows), end * len(rows))
        unseen = records.skip((begin - epoch * length) * len(rows))
        yield tf.data.Dataset.zip(positions, unseen).map(lambda n, record: (n, *record))
