"""A linear layer on the frozen tokens of patches: fitted to labelled pixels, measured on others."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead
from ibot_jax.evaluate.benchmarks.segmentation_data import Split, Squares, nearest
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes.patch_heads import Linear, count_pixels, decide, linear_loss
from ibot_jax.parallel.agreement import in_step
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A model that only gives features, and how it sees images.

    Attributes:
      patch_fn: (params, images [B, S, S, C] uint8) -> features of patches [B, h, w, F].
      params: its parameters, on all devices.
      squares: how images are read.
      mesh: the devices.
    """

    patch_fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    squares: Squares
    mesh: jax.sharding.Mesh

    def shape(self) -> tuple[int, int, int]:
        """Returns (h, w, F)."""
        shape = (1, self.squares.size, self.squares.size, self.squares.decoding.channels)
        image = jax.ShapeDtypeStruct(shape, jnp.uint8)
        return jax.eval_shape(self.patch_fn, self.params, image).shape[1:]

    def batches(self, split: Split, order: np.ndarray, what: str) -> Iterator[dict[str, jax.Array]]:
        """Yields global arrays of `Squares.batches`."""
        batches = in_step(self.squares.batches(split, order))
        for batch, _ in progress(batches, self.squares.number(split), what):
            yield to_global(batch, self.mesh)


def fit_linear(
    frozen: Frozen, train: Split, *, epochs: int, learning_rate: float, seed: int
) -> Linear:
    """Fits a linear layer, which starts at zero, to the training images.

    Args:
      frozen: the model.
      train: the images.
      epochs: how often they are seen.
      learning_rate: of AdamW; falls to 0 along a cosine.
      seed: of their order.

    Raises:
      UserError: if no pixel is annotated.
    """
    steps = epochs * frozen.squares.number(train)
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps))
    rows, columns, num_features = frozen.shape()
    head = Linear(jnp.zeros((num_features, train.num_classes)), jnp.zeros(train.num_classes))
    state = optimizer.init(head)
    everywhere = replicated(frozen.mesh)
    head, state = jax.device_put((head, state), everywhere)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def step(params, head, state, batch):
        tokens = frozen.patch_fn(params, batch["images"])
        counts = count_pixels(batch["labels"], (rows, columns), train.num_classes)
        grads = jax.grad(linear_loss)(head, tokens, counts)
        updates, state = optimizer.update(grads, state, head)
        return optax.apply_updates(head, updates), state, counts.any()

    rng, annotated = np.random.default_rng(seed), []
    for epoch in range(epochs):
        for batch in frozen.batches(train, rng.permutation(len(train)), f"linear {epoch + 1}"):
            head, state, has_pixels = step(frozen.params, head, state, batch)
            annotated.append(has_pixels)
        if not any(annotated):
            raise UserError(f"{train.annotations[0].parent} has no annotated pixel")
    return head


def count_classes(frozen: Frozen, head: Linear, test: Split) -> np.ndarray:
    """Counts the pixels of all images by true and predicted class, at the annotations' size.

    Args:
      frozen: the model.
      head: the layer.
      test: the images.

    Returns:
      [C, C] int64, see `mean_iou.count`.

    Raises:
      UserError: if no pixel is annotated.
    """

    @functools.partial(jax.jit, out_shardings=replicated(frozen.mesh))
    def segment(params, head, images):
        return decide(head(frozen.patch_fn(params, images)), frozen.squares.size)

    truths = ahead(test.read_truth, range(len(test)))
    total = np.zeros((test.num_classes, test.num_classes), np.int64)
    for batch in frozen.batches(test, np.arange(len(test)), "segmentation"):
        found = np.asarray(segment(frozen.params, head, batch["images"]))
        for prediction, truth in zip(found, truths, strict=False):
            total += mean_iou.count(nearest(prediction, *truth.shape), truth, test.num_classes)
    if not total.any():
        raise UserError(f"{test.annotations[0].parent} has no annotated pixel")
    return total
