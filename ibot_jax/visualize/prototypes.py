"""The tokens that each prototype is surest of, found in one pass over any number of images."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.models.parameters import Params
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.weights.model import Model

KINDS = ("class", "patch")
_MAX_ENTRIES = 2**25  # probabilities that a device holds at a time: 128 MiB
_MAX_IMAGES = 64


class Best(NamedTuple):
    """The k tokens of highest confidence of every prototype, best first, each of another image.

    Attributes:
      confidence: [K, k] float32, the share of the prototype in the token's softmax; -1 where there
        were too few images.
      image: [K, k] int32, index of the token's image.
      patch: [K, k] int32, index of the token's patch, row by row; 0 for class tokens.
    """

    confidence: jax.Array | np.ndarray
    image: jax.Array | np.ndarray
    patch: jax.Array | np.ndarray

    def surest(self, number: int) -> np.ndarray:
        """Returns the prototypes of the highest mean confidence in their k tokens, best first."""
        return np.argsort(-self.confidence.mean(axis=1), kind="stable")[:number]


def find_best(
    model: Model,
    params: Params,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    *,
    kind: str,
    k: int,
    temperature: float,
) -> Best:
    """Looks for the best tokens; memory holds a batch and k tokens for each prototype.

    Args:
      model: with a head.
      params: backbone's and head's, on the mesh.
      batches: as of `pipeline.eval_batches` by one process.
      mesh: the devices.
      kind: "class" or "patch": which tokens, and which of the head's prototypes.
      k: tokens for each prototype.
      temperature: of the softmax over the prototypes.

    Returns:
      NumPy arrays; images are counted over all batches, valid or not.
    """
    number = model.config.head["prototypes" if kind == "class" else "patch_prototypes"]
    if kind == "patch" and model.head.shared:
        number = model.config.head.prototypes
    nothing = np.zeros((number, k), np.int32)
    best = Best(np.full((number, k), -1, np.float32), nothing, nothing)
    first = 0
    for batch in batches:
        rows = to_global({name: batch[name] for name in ("images", "valid")}, mesh)
        best = _program(model, kind, mesh)(best, params, rows, np.int32(first), temperature)
        first += len(batch["valid"])
    return jax.tree.map(np.asarray, best)


def batch_size(model: Model, kind: str, num_patches: int, num_devices: int) -> int:
    """Returns how many images to look at at a time, a multiple of the number of devices."""
    head = model.config.head
    entries = (num_patches if kind == "patch" else 1) * max(head.prototypes, head.patch_prototypes)
    return num_devices * min(max(_MAX_ENTRIES // entries, 1), _MAX_IMAGES)


@functools.lru_cache(maxsize=2)
def _program(model: Model, kind: str, mesh: jax.sharding.Mesh):
    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def update(best, params, rows, first, temperature):
        features = model.features(params, rows["images"])
        tokens = features.cls if kind == "class" else features.patches
        tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])  # [B, n, D]
        logits = model.logits(params, tokens)[KINDS.index(kind)]  # [B, n, K]
        shares = jax.nn.softmax(logits / temperature)
        confidence = jnp.where(rows["valid"][:, None], shares.max(axis=1), -1).T  # [K, B]
        image = jnp.broadcast_to(first + jnp.arange(confidence.shape[1]), confidence.shape)
        found = Best(confidence, image, shares.argmax(axis=1).T)
        joined = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), best, found)
        kept = jax.lax.top_k(joined.confidence, best.confidence.shape[1])[1]
        return jax.tree.map(lambda entries: jnp.take_along_axis(entries, kept, axis=1), joined)

    return update
