"""The training of a depth head, which goes on where it was interrupted, and its errors.

OUT/depth-KEY.npz keeps head, optimiser and step, every thousand steps.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.depth.data import Layout, Split
from ibot_jax.evaluate.benchmarks.image_files import ahead, orders
from ibot_jax.evaluate.measures import depth as measures
from ibot_jax.evaluate.probes import depth_head, steps
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.parallel.agreement import in_step
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress

_NAME = "depth"  # of the file that is kept
_WEIGHT_DECAY = 1e-2  # of AdamW
_CLIP = 35.0  # the largest norm of the gradients
_GRADIENT_WEIGHT = 0.5  # of the loss of gradients, beside that of logarithms
_WARMING = 100  # steps without the variance in the loss


class Head(NamedTuple):
    """What is trained.

    Attributes:
      feature_fn: (params, images [B, H, W, C] uint8) -> features, a tree of arrays.
      start: (key, features) -> the parameters of the head as they start, by the features' shapes.
      depths: (parameters of the head, features) -> depths [B, H', W'], metres.
    """

    feature_fn: Callable[[Any, jax.Array], Any]
    start: Callable[[jax.Array, Any], Any]
    depths: Callable[[Any, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a head is trained on, and how.

    Attributes:
      head: the head.
      params: of the backbone, on all devices.
      mesh: the devices.
      rows: of a batch that this process makes.
      steps: of the training; in the first third the rate rises.
      learning_rate: at its peak.
      crop: height and width of what is trained on.
      seed: of the head, the order and the crops.
    """

    head: Head
    params: Any
    mesh: jax.sharding.Mesh
    rows: Rows
    steps: int
    learning_rate: float
    crop: tuple[int, int]
    seed: int


def fit(setting: Setting, train: Split, folder: str, about: dict[str, Any]) -> Any:
    """Trains a head, or finishes its training.

    Args:
      setting: how.
      train: the images.
      folder: where the state is kept.
      about: all that determines the outcome; JSON types only.

    Raises:
      UserError: if an image cannot be read, or the state cannot be read or written.
    """
    farthest = train.layout.farthest
    schedule = functools.partial(
        depth_head.rate,
        peak=setting.learning_rate,
        steps=setting.steps,
        warmup=setting.steps // 3,
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(_CLIP), optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    )
    head = _start(setting, train.decoding.channels)

    @functools.partial(jax.jit, out_shardings=replicated(setting.mesh))
    def step(state, params, batch, number):
        head, moments = state
        features = setting.head.feature_fn(params, batch["images"])

        def loss(head):
            found = depth_head.at_size(setting.head.depths(head, features), setting.crop)
            value = depth_head.log_loss(found, batch["depths"], farthest, number < _WARMING)
            return value + _GRADIENT_WEIGHT * depth_head.gradient_loss(
                found, batch["depths"], farthest
            )

        updates, moments = optimizer.update(jax.grad(loss)(head), moments, head)
        return optax.apply_updates(head, updates), moments

    head, _ = steps.train(
        (head, optimizer.init(head)),
        lambda state, batch, number: step(state, setting.params, batch, number),
        functools.partial(_batches, setting, train),
        steps=setting.steps,
        kept=Kept(folder, _NAME, about),
        mesh=setting.mesh,
        what="depth",
    )
    return head


def trained(setting: Setting, channels: int, folder: str, about: dict[str, Any]) -> Any:
    """Returns what `fit` has trained, on images of so many channels, on all devices.

    Raises:
      UserError: if it has not, or not to the end.
    """
    start, kept = _start(setting, channels), Kept(folder, _NAME, about)
    return steps.trained(start, steps=setting.steps, kept=kept, mesh=setting.mesh)


def _start(setting: Setting, channels: int) -> Any:
    image = jax.ShapeDtypeStruct((1, *setting.crop, channels), jnp.uint8)
    features = jax.eval_shape(setting.head.feature_fn, setting.params, image)
    return setting.head.start(jax.random.key(setting.seed), features)


def _batches(setting: Setting, train: Split, done: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the batches from a step on."""
    for epoch, order in orders(len(train), setting.rows.batch_size, setting.seed, done):
        yield from train.crops(order, setting.crop, setting.rows, [setting.seed, epoch])


def make_coarse_fn(setting: Setting, layout: Layout) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """Returns (params, head, images [B, H, W, C] uint8) -> depths [B, H', W'], metres.

    They are as fine as the head makes them, and the means of those of an image and of its mirror
    image, put right again, within what the layout has.
    """

    def one_way(params, head, images):
        found = setting.head.depths(head, setting.head.feature_fn(params, images))
        return jnp.clip(found, layout.nearest, layout.farthest)

    def find(params, head, images):
        mirrored = one_way(params, head, images[:, :, ::-1])[:, :, ::-1]
        return (one_way(params, head, images) + mirrored) / 2

    return find


def make_depth_fn(setting: Setting, layout: Layout) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """Returns (params, head, images [B, H, W, C] uint8) -> depths [B, H, W], metres.

    See `make_coarse_fn`.
    """
    coarse = make_coarse_fn(setting, layout)
    return lambda params, head, images: depth_head.at_size(
        coarse(params, head, images), images.shape[1:3]
    )


def measure(setting: Setting, head: Any, test: Split) -> dict[str, float]:
    """Returns the means over images of their errors, `measures.NAMES`.

    Raises:
      UserError: if an image cannot be read, or none has depths that count.
    """
    layout = test.layout
    predict = jax.jit(make_coarse_fn(setting, layout), out_shardings=replicated(setting.mesh))
    at_size = jax.jit(depth_head.at_size, static_argnums=1)
    size = setting.rows.batch_size

    def batches() -> Iterator[tuple[dict[str, np.ndarray], list[np.ndarray]]]:
        truths = ahead(test.read_depth, range(len(test)))
        for batch in test.whole(setting.rows):
            yield batch, list(itertools.islice(truths, size))

    found = []
    for (batch, truths), _ in progress(in_step(batches()), -(-len(test) // size), "depth"):
        images = to_global(batch, setting.mesh)["images"]
        coarse = np.asarray(predict(setting.params, head, images))
        for depth, truth in zip(coarse, truths, strict=False):
            known = measures.counted(
                truth, layout.nearest, layout.farthest, layout.box, layout.box_of
            )
            if known.any():
                depth = np.minimum(np.asarray(at_size(depth[None], truth.shape)[0]), layout.cap)
                found.append(measures.errors(depth[known].astype(np.float64), truth[known]))
    if not found:
        raise UserError(f"{test.depths[0].parent} has no depth that counts")
    return {name: float(np.mean([one[name] for one in found])) for name in measures.NAMES}
