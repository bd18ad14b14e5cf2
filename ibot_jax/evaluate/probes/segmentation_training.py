"""The training of a segmentation head, which goes on where it was interrupted, and its mIoU.

OUT/segmentation-KEY.npz keeps head, statistics, optimiser and step, every thousand steps.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead
from ibot_jax.evaluate.benchmarks.segmentation_data import Split
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops, Size, resized, shorter_side
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes import rates, segmentation_head, steps
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.segmentation_head import Head, Running
from ibot_jax.evaluate.probes.windows import Windows, decide
from ibot_jax.parallel.agreement import in_step
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress

_NAME = "segmentation"  # of the file that is kept

Trained = tuple[Head, Running]
State = tuple[Trained, optax.OptState]
# (parameters, images [B, H, W, C'] uint8) -> logits [B, h, w, C]
LogitsFn = Callable[[Any, jax.Array], jax.Array]
# (number of the test image, classes found [H, W] uint8)
Show = Callable[[int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a head is trained on, and how.

    Attributes:
      patch_fn: (params, images [B, S, S, C] uint8) -> features of patches [B, h, w, F].
      params: its parameters, on all devices.
      mesh: the devices.
      crops: how images are seen in training; its square is a window, too.
      steps: of the training.
      warmup: steps in which the learning rate rises.
      learning_rate: at its peak.
      schedule: how it falls, a key of `rates.RATES`.
      weight_decay: of AdamW.
      clip: the largest norm of the gradients; 0 leaves them.
      dropout: share of features that are left out.
      batch_norm: whether the features are normalised by their statistics.
      seed: of the head, the order, the crops and the dropout.
    """

    patch_fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    mesh: jax.sharding.Mesh
    crops: Crops
    steps: int
    warmup: int
    learning_rate: float
    schedule: str
    weight_decay: float
    clip: float
    dropout: float
    batch_norm: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes at which test images are seen.

    Attributes:
      scales: by which the shorter side in training is multiplied.
      mirrored: whether each is also seen mirrored.
      stride: from one window to the next, pixels.
    """

    scales: Sequence[float]
    mirrored: bool
    stride: int


def fit(setting: Setting, train: Split, folder: str, about: dict[str, Any]) -> Trained:
    """Trains a head, or finishes its training.

    Args:
      setting: how.
      train: the images.
      folder: where the state is kept.
      about: all that determines the outcome; JSON types only.

    Returns:
      The head, and what its BatchNorm has seen.

    Raises:
      UserError: if an image cannot be read, or the state cannot be read or written.
    """
    found, _ = steps.train(
        start(setting, train.num_classes),
        make_step(setting),
        functools.partial(setting.crops.from_step, train, setting.seed),
        steps=setting.steps,
        kept=Kept(folder, _NAME, about),
        mesh=setting.mesh,
        what="segmentation",
    )
    return found


def start(setting: Setting, classes: int) -> State:
    """Returns the state of a training of so many classes before its first step."""
    key, _ = _keys(setting)
    trained = _start(setting, classes, key)
    return trained, _optimizer(setting).init(trained[0])


def make_step(setting: Setting) -> Callable[[State, steps.Batch, int], State]:
    """Returns the step of a training, see `steps.train`."""
    optimizer, (_, dropout_key) = _optimizer(setting), _keys(setting)

    @functools.partial(jax.jit, out_shardings=replicated(setting.mesh))
    def step(state, params, batch, number):
        (head, running), moments = state
        tokens = setting.patch_fn(params, batch["images"])

        def loss(head):
            values, seen = segmentation_head.training_logits(
                head, running, tokens, jax.random.fold_in(dropout_key, number), setting.dropout
            )
            return segmentation_head.loss(values, batch["labels"]), seen

        grads, seen = jax.grad(loss, has_aux=True)(head)
        updates, moments = optimizer.update(grads, moments, head)
        return (optax.apply_updates(head, updates), seen), moments

    return lambda state, batch, number: step(state, setting.params, batch, number)


def _keys(setting: Setting) -> jax.Array:
    """Returns the keys of the head and of the dropout."""
    return jax.random.split(jax.random.key(setting.seed))


def _optimizer(setting: Setting) -> optax.GradientTransformation:
    schedule = functools.partial(
        rates.RATES[setting.schedule],
        peak=setting.learning_rate,
        steps=setting.steps,
        warmup=setting.warmup,
    )
    return optax.chain(
        optax.clip_by_global_norm(setting.clip) if setting.clip else optax.identity(),
        optax.adamw(schedule, weight_decay=setting.weight_decay),
    )


def trained(setting: Setting, classes: int, folder: str, about: dict[str, Any]) -> Trained:
    """Returns what `fit` has trained, of so many classes, on all devices.

    Raises:
      UserError: if it has not, or not to the end.
    """
    like = _start(setting, classes, jax.random.key(0))
    kept = Kept(folder, _NAME, about)
    return steps.trained(like, steps=setting.steps, kept=kept, mesh=setting.mesh)


def _start(setting: Setting, classes: int, key: jax.Array) -> Trained:
    square = setting.crops.crop, setting.crops.crop
    image = jax.ShapeDtypeStruct((1, *square, setting.crops.decoding.channels), jnp.uint8)
    features = jax.eval_shape(setting.patch_fn, setting.params, image).shape[-1]
    return segmentation_head.start(features, classes, key, batch_norm=setting.batch_norm)


def make_logits_fn(setting: Setting) -> LogitsFn:
    """Returns (what `fit` gave and the backbone's parameters, images) -> logits of patches."""

    def logits(params, images):
        head, backbone = params
        return segmentation_head.logits(*head, setting.patch_fn(backbone, images))

    return logits


def measure(
    logits_fn: LogitsFn,
    params: Any,
    test: Split,
    crops: Crops,
    sizes: Sizes,
    mesh: jax.sharding.Mesh,
    show: Show,
) -> np.ndarray:
    """Counts the pixels of all images by true and predicted class, at the annotations' size.

    Windows go through the devices in batches, whichever image they are of.

    Args:
      logits_fn: says of windows what their cells show.
      params: its parameters, on all devices.
      test: the images.
      crops: as in training.
      sizes: at which the images are seen.
      mesh: the devices.
      show: is told of each image.

    Returns:
      [C, C] int64, see `mean_iou.count`.

    Raises:
      UserError: if an image cannot be read, or no pixel is annotated.
    """
    truths: collections.deque[np.ndarray] = collections.deque()  # of images that are read

    def images() -> Iterator[np.ndarray]:
        read = functools.partial(test.read, decoding=crops.decoding)
        for pixels, truth in ahead(read, range(len(test))):
            truths.append(truth)
            yield pixels

    found = segment(logits_fn, params, images(), crops, sizes, mesh)
    total = np.zeros((test.num_classes, test.num_classes), np.int64)
    for index, classes in enumerate(progress(found, len(test), "mIoU")):
        total += mean_iou.count(classes, truths.popleft(), test.num_classes)
        show(index, classes)
    if not total.any():
        raise UserError(f"{test.annotations[0].parent} has no annotated pixel")
    return total


def segment(
    logits_fn: LogitsFn,
    params: Any,
    images: Iterable[np.ndarray],
    crops: Crops,
    sizes: Sizes,
    mesh: jax.sharding.Mesh,
) -> Iterator[np.ndarray]:
    """Yields the classes of the pixels of images, [H, W] uint8, each at its own size.

    Args:
      logits_fn: says of windows what their cells show.
      params: its parameters, on all devices.
      images: their pixels, [H, W, C] uint8; what is raised there, all processes raise.
      crops: as in training.
      sizes: at which the images are seen.
      mesh: the devices.
    """
    turns = (False, True) if sizes.mirrored else (False,)
    program = jax.jit(logits_fn, out_shardings=replicated(mesh))
    shapes: collections.deque[Size] = collections.deque()  # of images whose windows are cut

    def windows_of(size: Size) -> list[Windows]:
        shortest = [int(crops.size * scale) for scale in sizes.scales]
        return [Windows(shorter_side(size, side), crops.crop, sizes.stride) for side in shortest]

    def cut(pixels: np.ndarray) -> tuple[Size, list[np.ndarray]]:
        found = []
        for windows in windows_of(pixels.shape[:2]):
            view = resized(pixels, windows.size, crops.decoding)
            for mirrored in turns:
                found += windows.cut(view[:, ::-1] if mirrored else view)
        return pixels.shape[:2], found

    def all_windows() -> Iterator[np.ndarray]:
        for shape, windows in ahead(cut, images):
            shapes.append(shape)
            yield from windows

    scores = _scores(functools.partial(program, params), all_windows(), crops.rows, mesh)
    for first in scores:  # of an image, whose shape is known by then
        shape, rest = shapes.popleft(), itertools.chain([first], scores)
        yield decide(
            [
                windows.join(list(itertools.islice(rest, len(windows))), shape, mirrored=mirrored)
                for windows in windows_of(shape)
                for mirrored in turns
            ]
        )


def _scores(
    logits: Callable[[jax.Array], jax.Array],
    cut: Iterator[np.ndarray],
    rows: Rows,
    mesh: jax.sharding.Mesh,
) -> Iterator[np.ndarray]:
    """Yields the logits [h, w, C] of windows.

    The devices work on a batch while the one before it is used.
    """

    def batches() -> Iterator[tuple[np.ndarray, int]]:
        for _, alike in itertools.groupby(cut, key=np.shape):
            while some := list(itertools.islice(alike, rows.batch_size)):
                number = len(some)
                some += [np.zeros_like(some[0])] * (rows.batch_size - number)
                yield np.stack([some[row] for row in rows.numbers]), number

    pending = None
    for (images, number), _ in in_step(batches()):
        found = logits(to_global({"images": images}, mesh)["images"]), number
        if pending is not None:
            yield from _fetch(*pending)
        pending = found
    if pending is not None:
        yield from _fetch(*pending)


def _fetch(found: jax.Array, number: int) -> np.ndarray:
    return np.asarray(found)[:number]
