"""Classes of patches by their nearest of a bank of labelled ones, spread over the devices.

Shape letters: B images, n patches of each, P all patches of an image, S batches, F features, C
classes, Q queries.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.evaluate.features.sharded import summed
from ibot_jax.evaluate.measures.cosine import unit
from ibot_jax.evaluate.probes.pixel_classes import count_pixels
from ibot_jax.parallel.layouts import batch_sharding
from ibot_jax.parallel.mesh import BATCH_AXES
from ibot_jax.parallel.rows import to_global

Array = jax.Array

_MAX_ENTRIES = 2**27  # of similarities at a time, on a device: 512 MiB
_MAX_ROWS = 2**17  # of the bank that queries are compared with at a time

# (params, images [B, S, S, channels] uint8) -> features of patches [B, h, w, F]
PatchFn = Callable[[Any, Array], Array]


class PatchBank(NamedTuple):
    """Patches whose classes are known; the images of a batch are spread over the devices.

    Attributes:
      features: [B, S, n, F], of length 1.
      counts: [B, S, n, C] uint16, pixels of each class; a patch without any does not vote.
    """

    features: Array
    counts: Array


def bank_bytes(
    batches: int, batch_size: int, per_image: int, features: int, classes: int, dtype: str
) -> int:
    """Returns how many bytes a bank takes, over all devices."""
    of_patch = features * jnp.dtype(dtype).itemsize + classes * jnp.dtype(jnp.uint16).itemsize
    return batches * batch_size * per_image * of_patch


def fill(
    patch_fn: PatchFn,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    number: int,
    *,
    per_image: int,
    num_classes: int,
    seed: int,
    dtype: str,
    mesh: jax.sharding.Mesh,
) -> PatchBank:
    """Remembers some patches of each image. None leaves the device that computed it.

    Args:
      patch_fn: the features.
      params: its parameters, on all devices.
      batches: of this process's share of images, labels and valid, as of `in_context_data.Reader`.
      number: of batches, S.
      per_image: patches that are remembered of an image, n; which, see `draw_patches`.
      num_classes: C.
      seed: of the draw.
      dtype: of the bank's features.
      mesh: the devices.
    """
    layout = batch_sharding(mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=layout)
    def remember(bank: PatchBank, params, batch: dict[str, Array], step: Array) -> PatchBank:
        tokens = patch_fn(params, batch["images"])
        size, rows, columns, width = tokens.shape
        counts = count_pixels(batch["labels"], (rows, columns), num_classes)
        counts = (counts * batch["valid"][:, None, None, None]).reshape(size, rows * columns, -1)
        chosen = draw_patches(jax.random.fold_in(jax.random.key(seed), step), counts, per_image)
        found = (
            jnp.take_along_axis(x, chosen[..., None], axis=1)
            for x in (unit(tokens).reshape(size, rows * columns, width), counts)
        )
        return PatchBank(
            *(
                jax.lax.dynamic_update_index_in_dim(old, new.astype(old.dtype), step, 1)
                for old, new in zip(bank, found, strict=True)
            )
        )

    bank = None
    for step, batch in enumerate(batches):
        batch = to_global(batch, mesh)
        if bank is None:
            width = jax.eval_shape(patch_fn, params, batch["images"]).shape[-1]
            shape = (len(batch["images"]), number, per_image)
            empty = PatchBank(
                jax.ShapeDtypeStruct((*shape, width), dtype),
                jax.ShapeDtypeStruct((*shape, num_classes), jnp.uint16),
            )
            zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), empty)
            bank = jax.jit(zeros, out_shardings=layout)()
        bank = remember(bank, params, batch, step)
    return bank


def draw_patches(key: Array, counts: Array, number: int) -> Array:
    """Draws patches of each image, those of rare classes first, as open-hummingbird-eval does.

    A patch's score is the sum, over the classes that it shows, of how many patches of the image
    show them, times a number drawn from 0 to 1; the lowest scores are taken.

    Args:
      key: of the draw.
      counts: [B, P, C] pixels of each class; patches without any come last.
      number: n, no more than P.

    Returns:
      [B, n] int32.
    """
    shown = (counts > 0).astype(jnp.float32)
    scores = jnp.einsum("bpc,bc->bp", shown, shown.sum(axis=1))
    scores *= jax.random.uniform(key, scores.shape)
    scores = jnp.where(shown.any(axis=-1), scores, jnp.inf)
    return jax.lax.top_k(-scores, number)[1]


def votes(
    bank: PatchBank, tokens: Array, *, k: int, temperature: float, mesh: jax.sharding.Mesh
) -> Array:
    """Returns the votes of each patch's k nearest by cosine, with weight exp(cosine / T).

    Each device finds the nearest of its own part of the bank, of which those of all are chosen.
    Queries go through in chunks and the bank in blocks, so that memory is bounded.

    Args:
      bank: the patches that vote, each for its classes by their shares of its pixels.
      tokens: [B, h, w, F].
      k: how many vote; the bank has as many, with pixels of a class.
      temperature: T.
      mesh: the devices.

    Returns:
      [B, h, w, C] float32, shares of the votes.
    """
    batch, rows, columns, width = tokens.shape
    queries = unit(tokens).reshape(-1, width).astype(bank.features.dtype)
    of_all = summed(functools.partial(_own_votes, k=k, temperature=temperature), mesh)
    return of_all(queries, bank).reshape(batch, rows, columns, -1)


def _own_votes(queries: Array, bank: PatchBank, *, k: int, temperature: float) -> Array:
    """Returns the votes [Q, C] of a device's own patches among the nearest of all devices."""
    features = bank.features.reshape(-1, queries.shape[1])
    counts = bank.counts.reshape(len(features), -1)
    # Votes of no patch, where a device has fewer than k.
    missing = max(k - len(features), 0)
    features, counts = (jnp.pad(x, ((0, missing), (0, 0))) for x in (features, counts))
    number = len(queries)
    chunk = min(max(_MAX_ENTRIES // min(len(features), _MAX_ROWS), 1), number)

    def of_chunk(chunk: Array) -> Array:
        cosine, index = _nearest(chunk, features, counts, k)
        every = jax.lax.all_gather(cosine, BATCH_AXES, axis=1, tiled=True)  # device by device
        best, place = jax.lax.top_k(every, k)
        own = place // k == jax.lax.axis_index(BATCH_AXES)
        weights = jnp.where(own, jax.nn.softmax(best / temperature), 0)
        pixels = counts[jnp.take_along_axis(index, place % k, axis=1)].astype(jnp.float32)
        shares = pixels / jnp.maximum(pixels.sum(axis=-1, keepdims=True), 1)
        return jnp.einsum("qk,qkc->qc", weights, shares, precision="highest")

    padded = jnp.pad(queries, ((0, -number % chunk), (0, 0)))
    found = jax.lax.map(of_chunk, padded.reshape(-1, chunk, queries.shape[1]))
    return found.reshape(len(padded), -1)[:number]


def _nearest(queries: Array, features: Array, counts: Array, k: int) -> tuple[Array, Array]:
    """Returns cosines and rows of the k nearest of a bank [M, F], [Q, k] each, block by block."""
    total = len(features)
    block = min(total, max(_MAX_ROWS, k))

    def of_block(number, best):
        first = number * block
        start = jnp.minimum(first, total - block)
        rows = start + jnp.arange(block)
        own, pixels = (jax.lax.dynamic_slice_in_dim(x, start, block) for x in (features, counts))
        cosine = jnp.einsum(
            "qf,mf->qm", queries, own, precision="highest", preferred_element_type=jnp.float32
        )
        votes = pixels.any(axis=1) & (rows >= first)  # the last block begins within another one
        nearest, place = jax.lax.top_k(jnp.where(votes, cosine, -jnp.inf), k)
        found = nearest, rows[place]
        cosine, index = (jnp.concatenate(x, axis=1) for x in zip(best, found, strict=True))
        nearest, place = jax.lax.top_k(cosine, k)
        return nearest, jnp.take_along_axis(index, place, axis=1)

    none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
    return jax.lax.fori_loop(0, -(-total // block), of_block, none)
