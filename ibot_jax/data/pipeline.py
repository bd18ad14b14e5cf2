"""The input pipeline: the batches of a training, and those of an evaluation."""

import bisect
import collections
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
from ibot_jax.data.make.chunks import ORIGIN, EvalChunks, Request, TrainChunks
from ibot_jax.data.make.examples import ORDER, STEPS, MakeCentralView, MakeExample, stream
from ibot_jax.data.make.order import Positions
from ibot_jax.data.make.sizes import SizesByStep
from ibot_jax.data.make.workers import Task, Workers
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.resize import check_method
from ibot_jax.data.sources.mixture import MixedSource
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.files.tf import import_tensorflow
from ibot_jax.models.geometry import Geometry
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
    geometry: Geometry,
    high_res: Section | None = None,
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
      geometry: of the backbone, whose output patches of a global view have masks.
      high_res: which sizes views have in the last part of the run; None for those of `data`.
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
        source: [b] int32, of a mixture only: the number of the source of each image.
        replaced: [b] bool, of a mixture only: whether another image of it stands in for a bad one.
      Sizes are those of the batch's step. It raises `TrainingError` when the share of bad images
      passes `data.max_bad_share`.
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

    sizes = SizesByStep(seed, data, high_res, plan)
    bad_images = BadImages(len(source), data.max_bad_share)

    def of_size(number: int) -> Iterator[Batch]:
        """Returns the batches with views of one size."""
        views, anchored = sizes.views[number], {}
        if gram is not None and anchor_is_kept(gram):
            anchored = dict(gram_size=gram_size(gram, views), gram_colors=gram.colors)
        grid = geometry.grid(views.global_size)
        task = MakeExample(source.fetch, seed, views, masks, grid, **anchored)
        return task_batches(
            source,
            task,
            arguments,
            task.keys,
            plan,
            rows,
            bad_images,
            seed=seed,
            workers=data.workers,
            steps=sizes.steps(number, start_step),
        )

    first, *others = sizes.numbers(start_step) or [0]
    batches = of_size(first)
    if others:
        numbers = map(sizes.number, range(start_step, plan.total_steps))
        batches = _merged(list(numbers), of_size, {first: batches})
    return TrainBatches(batches, bad_images)


def _merged(
    numbers: Sequence[int], of_size: Callable[[int], Iterator[Batch]], begun: dict
) -> Iterator[Batch]:
    """Yields batches from several streams.

    Args:
      numbers: of the stream from which each batch comes.
      of_size: opens a stream, when it is first needed; it ends with its last batch.
      begun: streams that are open, by number.
    """
    left = collections.Counter(numbers)
    for number in numbers:
        if number not in begun:
            begun[number] = of_size(number)
        yield next(begun[number])
        left[number] -= 1
        if not left[number]:
            del begun[number]


def task_batches(
    source: Source | TfdsStream,
    task: Task,
    arguments: Callable[[Request], tuple],
    keys: Sequence[str],
    plan: Plan,
    rows: Rows,
    bad_images: BadImages,
    *,
    seed: int,
    workers: int,
    steps: Sequence[int],
) -> Iterator[Batch]:
    """Returns batches, as `train_batches` does, of whatever a task makes of an example.

    Args:
      source: what to read.
      task: what workers do.
      arguments: of the task, for an example.
      keys: of the batches, one for each of the task's arrays.
      plan: of the run.
      rows: of a batch that this process makes.
      bad_images: where those that cannot be read are counted.
      seed: of the run.
      workers: processes that make the images; 0 takes one for each core.
      steps: whose batches they are, rising.

    Returns:
      An iterator; its threads and processes end when it is dropped.
    """
    chunk = chunk_rows(task.blank(), len(rows))
    pool = Workers(task, workers, len(rows))
    beside = ()
    if isinstance(source, MixedSource):
        beside, keys = (np.zeros((), np.int32), np.zeros((), bool)), (*keys, *ORIGIN)
    positions = Positions(plan, rows, steps)
    chunks = TrainChunks(source, seed, positions, pool, arguments, bad_images)
    if isinstance(source, TfdsStream):
        make = chunks.from_records
        inputs = _epochs(source, seed, plan, rows, steps)
    else:
        make = chunks.from_positions
        inputs = iter([import_tensorflow().data.Dataset.range(len(steps) * len(rows))])
    batches = run_batches(inputs, make, beside, chunk, len(rows), pool)
    return (dict(zip(keys, arrays, strict=False)) for arrays in batches)


class TrainBatches:
    """The iterator that `train_batches` returns.

    Attributes:
      bad_images: how many different images could not be read so far.
    """

    def __init__(self, batches: Iterator[Batch], bad_images: BadImages):
        self._batches = batches
        self._bad_images = bad_images

    @property
    def bad_images(self) -> int:
        return len(self._bad_images)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


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
    pool = Workers(make_view, workers, len(rows))
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
    beside = np.zeros((), np.int32), np.zeros((), bool)
    for images, labels, valid in run_batches(iter([dataset]), make, beside, chunk, len(rows), pool):
        yield {"images": images, "labels": labels, "valid": valid}


def _epochs(
    source: TfdsStream,
    seed: int,
    plan: Plan,
    rows: Rows,
    steps: Sequence[int],
) -> Iterator["tf.data.Dataset"]:
    """Yields (position, encoded image, label, name) of what each epoch has of these steps."""
    tf = import_tensorflow()
    length, begin = plan.steps_per_epoch, 0
    while begin < len(steps):
        epoch = int(steps[begin]) // length
        end = bisect.bisect_left(steps, (epoch + 1) * length)
        wanted = np.zeros(length, bool)
        wanted[np.asarray(steps[begin:end]) - epoch * length] = True
        shuffle_seed = int(stream(seed, epoch, 0, ORDER).integers(2**31))
        records = source.records(rows.own, len(rows.shares), shuffle_seed=shuffle_seed)
        of_steps = tf.data.Dataset.from_tensor_slices(np.repeat(wanted, len(rows)))
        records = tf.data.Dataset.zip(of_steps, records).filter(lambda wanted, _: wanted)
        positions = tf.data.Dataset.range(begin * len(rows), end * len(rows))
        yield tf.data.Dataset.zip(positions, records).map(lambda n, kept: (n, *kept[1]))
        begin = end
