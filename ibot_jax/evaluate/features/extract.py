"""Features of images: what they are, and those of a whole data set, on every process."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.models.pixels import normalize
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.weights.model import Model

FeatureFn = Callable[[Any, jax.Array], Any]


def make_feature_fn(model: Model, kind: str, blocks: int) -> FeatureFn:
    """Returns the function from (params, uint8 images [B, H, W, C]) to features [B, F] float32.

    Args:
      model: whose features.
      kind: "cls", the class tokens of the last blocks, the last one last; "mean", the means over
        their patch tokens; "cls+mean", the class tokens and after them the mean of the last block's
        patch tokens, as the original combines them; "all", the class tokens and after them the
        means of all these blocks; "top10", the mean of the 10 patch tokens of the last block that
        are attended to most, or of any other number; "pixels", the normalised images.
      blocks: how many of the last blocks.

    Raises:
      UserError: if the model has not so many blocks.
    """
    if kind == "pixels":
        return functools.partial(_pixels, model)
    if kind.startswith("top"):
        if blocks > 1:
            raise UserError(f"--features={kind} is of the last block alone; give --blocks=1")
        return functools.partial(_most_attended, model, int(kind.removeprefix("top")))
    wanted = last_blocks(model, blocks)

    def features(params, images):
        layers = model.layers(params, model.whole_patches(images), wanted)
        classes = [tokens.cls for tokens in layers]
        means = [tokens.patches.mean(axis=(1, 2)) for tokens in layers]
        parts = {
            "cls": classes,
            "mean": means,
            "cls+mean": [*classes, means[-1]],
            "all": [*classes, *means],
        }
        return jnp.concatenate(parts[kind], axis=-1)

    return features


def last_blocks(model: Model, blocks: int) -> range:
    """Returns the numbers of the last blocks, as `Model.layers` takes them.

    Raises:
      UserError: if the model has not so many.
    """
    depth = model.geometry.depth
    if blocks > depth:
        raise UserError(f"--blocks={blocks} is more than the {depth} of the model")
    return model.geometry.last_blocks(blocks)


def _most_attended(model: Model, number: int, params: Any, images: jax.Array) -> jax.Array:
    """Returns the mean of the patch tokens that the class token attends to most, over all heads."""
    images = model.whole_patches(images)
    attended = model.attention(params, images).cls.mean(axis=1).reshape(len(images), -1)
    if number > attended.shape[1]:
        raise UserError(
            f"--features=top{number} is more than the {attended.shape[1]} patches of an image"
        )
    _, chosen = jax.lax.top_k(attended, number)
    patches = model.features(params, images).patches
    patches = patches.reshape(len(images), -1, patches.shape[-1])
    return jnp.take_along_axis(patches, chosen[..., None], axis=1).mean(axis=1)


def _pixels(model: Model, params: Any, images: jax.Array) -> jax.Array:
    del params
    data = model.config.data
    images = normalize(images, data.mean, data.std, jnp.float32)
    return images.reshape(len(images), -1)


def extract(
    feature_fn: FeatureFn,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> tuple[Any, np.ndarray]:
    """Computes the features of every valid image.

    Every process calls it with its own share of the batches, as many as the others have, and
    gets the features of all.

    Args:
      feature_fn: (params, images [B, H, W, C] uint8) -> features [B, D], or a tree of arrays
        [B, ...]; pass the same function every time, for it is compiled once.
      params: its parameters.
      batches: dicts of `images` uint8 [b, H, W, C], `labels` int32 [b] and `valid` bool [b],
        False for padding, where b is this process's share of B.
      mesh: the devices.

    Returns:
      Features [M, D], or their tree, and labels [M] int32, in the order of the batches.
    """
    parts = [
        jax.tree.map(operator.itemgetter(valid), (features, labels))
        for features, labels, valid in extract_batches(feature_fn, params, batches, mesh)
    ]
    if not parts:
        raise ValueError("there is no batch to compute features of")
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def require_read(source: Source | TfdsStream, read: int, needed: int) -> None:
    """Raises a TrainingError where fewer images of a source were read than are needed."""
    if read < needed:
        raise TrainingError(
            f"{read} of the {len(source)} images of {source.name} can be read, and the evaluation "
            f"needs {needed} or more; restore them"
        )


def extract_batches(
    feature_fn: FeatureFn,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Yields features [B, D] or their tree, labels [B] int32 and valid [B] bool, batch by batch.

    Args as of `extract`.
    """
    program = feature_program(feature_fn, mesh)
    pending = None
    for batch in batches:
        outputs = program(params, to_global(batch, mesh))
        if pending is not None:  # fetched while the device works on the next batch
            yield _fetch(*pending)
        pending = outputs
    if pending is not None:
        yield _fetch(*pending)


@functools.lru_cache(maxsize=8)
def feature_program(feature_fn: FeatureFn, mesh: jax.sharding.Mesh) -> Callable[..., tuple]:
    """Returns (params, batch of global arrays) -> features, labels and valid, compiled once.

    Args as of `extract`.
    """

    # Labels and padding take the same way as images, so that rows agree whatever the order of
    # devices; replicated outputs are readable on every process.
    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def program(params, batch):
        return feature_fn(params, batch["images"]), batch["labels"], batch["valid"]

    return program


def _fetch(features, labels, valid) -> tuple[Any, np.ndarray, np.ndarray]:
    return jax.tree.map(np.asarray, features), np.asarray(labels), np.asarray(valid)
