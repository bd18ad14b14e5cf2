"""The training of a depth head, which goes on where it was interrupted, and its errors.

    OUT/depth-KEY.npz   head, optimiser and step, every thousand steps

KEY is a hash of all that determines them.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.depth_data import Split
from ibot_jax.evaluate.benchmarks.image_files import ahead
from ibot_jax.evaluate.measures import depth as measures
from ibot_jax.evaluate.probes import depth_head
from ibot_jax.evaluate.probes.depth_head import DepthHead
from ibot_jax.files.atomic import writing
from ibot_jax.files.paths import absolute_path
from ibot_jax.files.paths import writing as writable
from ibot_jax.parallel.agreement import in_step, same_end
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.shares import Rows
from ibot_jax.screen.progress import progress

_SAVE_EVERY = 1000  # steps
_WARMING = 100  # steps without the variance in the loss


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a head is trained on, and how.

    Attributes:
      patch_fn: (params, images [B, H, W, C] uint8) -> features of patches [B, h, w, F].
      params: its parameters, on all devices.
      mesh: the devices.
      rows: of a batch that this process makes.
      bins: K.
      steps: of the training.
      warmup: steps in which the rate rises.
      learning_rate: at its peak.
      weight_decay: of AdamW.
      gradient_weight: of the gradient loss beside that of logarithms.
      crop: height and width of what is trained on.
      seed: of the head, the order and the crops.
    """

    patch_fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    mesh: jax.sharding.Mesh
    rows: Rows
    bins: int
    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float
    gradient_weight: float
    crop: tuple[int, int]
    seed: int


def fit(setting: Setting, train: Split, folder: str, about: dict[str, Any]) -> DepthHead:
    """Trains a head, or finishes its training.

    Args:
      setting: how.
      train: the images.
      folder: where the state is kept.
      about: all that determines the outcome; JSON types only.

    Raises:
      UserError: if an image cannot be read, or the state cannot be read or written.
    """
    layout, everywhere = train.layout, replicated(setting.mesh)
    schedule = functools.partial(
        depth_head.rate,
        peak=setting.learning_rate,
        steps=setting.steps,
        warmup=setting.warmup,
    )
    optimizer = optax.adamw(schedule, weight_decay=setting.weight_decay)
    shape = 1, *setting.crop, train.decoding.channels
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)
    features = jax.eval_shape(setting.patch_fn, setting.params, image).shape[-1]
    head = DepthHead.start(features, setting.bins, jax.random.key(setting.seed))
    kept = _Kept(folder, about)
    done, (head, state) = kept.read((head, optimizer.init(head)))
    head, state = jax.device_put((head, state), everywhere)

    @functools.partial(jax.jit, donate_argnums=(0, 1), out_shardings=everywhere)
    def step(head, state, params, batch, number):
        tokens = setting.patch_fn(params, batch["images"])

        def loss(head):
            found = depth_head.depths(head, tokens, layout.nearest, layout.farthest)
            found = depth_head.at_size(found, setting.crop)
            value = depth_head.log_loss(found, batch["depths"], layout.farthest, number < _WARMING)
            return value + setting.gradient_weight * depth_head.gradient_loss(
                found, batch["depths"], layout.farthest
            )

        updates, state = optimizer.update(jax.grad(loss)(head), state, head)
        return optax.apply_updates(head, updates), state

    batches = in_step(_batches(setting, train, done))
    for number, (batch, _) in zip(
        range(done, setting.steps),
        progress(batches, setting.steps - done, "depth"),
        strict=False,
    ):
        head, state = step(head, state, setting.params, to_global(batch, setting.mesh), number)
        if (number + 1) % _SAVE_EVERY == 0 or number + 1 == setting.steps:
            kept.write(number + 1, jax.device_get((head, state)))
    return head


def _batches(setting: Setting, train: Split, done: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of the batches from a step on."""
    size = setting.rows.batch_size
    per_epoch = len(train) // size
    epoch, skipped = divmod(done, per_epoch)
    while epoch * per_epoch < setting.steps:
        order = np.random.default_rng([setting.seed, epoch]).permutation(len(train))
        order = order[: per_epoch * size][skipped * size :]
        yield from train.crops(order, setting.crop, setting.rows, [setting.seed, epoch])
        epoch, skipped = epoch + 1, 0


def measure(setting: Setting, head: DepthHead, test: Split) -> dict[str, float]:
    """Returns the means over images of their errors, `measures.NAMES`.

    Depths are the means of those of an image and of its mirror image, put right again.

    Raises:
      UserError: if an image cannot be read, or none has depths that count.
    """
    layout, size = test.layout, test.size()

    @functools.partial(jax.jit, out_shardings=replicated(setting.mesh))
    def predict(params, head, images):
        def one_way(images):
            tokens = setting.patch_fn(params, images)
            found = depth_head.depths(head, tokens, layout.nearest, layout.farthest)
            return depth_head.at_size(found, size)

        return (one_way(images) + one_way(images[:, :, ::-1])[:, :, ::-1]) / 2

    truths = ahead(lambda index: test.read(index)[1], range(len(test)))
    batches = in_step(test.whole(setting.rows))
    number = -(-len(test) // setting.rows.batch_size)
    found = []
    for batch, _ in progress(batches, number, "depth"):
        images = to_global(batch, setting.mesh)["images"]
        for prediction, truth in zip(
            np.asarray(predict(setting.params, head, images)), truths, strict=False
        ):
            known = measures.counted(truth, layout.nearest, layout.farthest, layout.box)
            if known.any():
                clipped = np.clip(prediction, layout.nearest, layout.farthest)
                found.append(measures.errors(clipped[known].astype(np.float64), truth[known]))
    if not found:
        raise UserError(f"{test.depths[0].parent} has no depth that counts")
    return {name: float(np.mean([one[name] for one in found])) for name in measures.NAMES}


class _Kept:
    """What is kept of a training, in one file."""

    def __init__(self, folder: str, about: dict[str, Any]):
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = folder
        self._path = absolute_path(folder) / f"depth-{key}.npz"

    def read(self, like: Any) -> tuple[int, Any]:
        """Returns steps done and what was kept; 0 and `like` if there is nothing."""
        with same_end():
            if not self._path.exists():
                return 0, like
            try:
                leaves, structure = jax.tree.flatten(like)
                with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    leaves = [arrays[f"leaf_{number}"] for number in range(len(leaves))]
                    return int(arrays["step"]), jax.tree.unflatten(structure, leaves)
            except Exception as error:  # NumPy and zipfile raise many kinds
                raise UserError(f"{self._path} is damaged ({error}); remove it") from error

    def write(self, step: int, state: Any) -> None:
        """Replaces what was kept, at once; the first process does."""
        with same_end():
            if not is_first():
                return
            leaves = {f"leaf_{number}": x for number, x in enumerate(jax.tree.leaves(state))}
            with writable("--out", self._folder):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with writing(self._path) as file:
                    np.savez(file, step=step, **leaves)
