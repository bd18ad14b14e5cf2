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
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.pixel_classes import count_pixels
from ibot_jax.parallel.layouts import batch_sharding, replicated
from ibot_jax.parallel.mesh import BATCH_AXES
from ibot_jax.parallel.rows import to_global

Array = jax.Array

_MAX_ENTRIES = 2**27  # of similarities at a time, on a device: 512 MiB
_MAX_ROWS = 2**17  # of the bank that queries are compared with at a time
PART = 16  # batches of images that are kept together

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
    batches: Callable[[int], Iterable[dict[str, np.ndarray]]],
    number: int,
    image: jax.ShapeDtypeStruct,
    kept: Callable[[int], Kept],
    *,
    per_image: int,
    num_classes: int,
    seed: int,
    dtype: str,
    mesh: jax.sharding.Mesh,
) -> PatchBank:
    """Remembers some patches of each image, or of those that are left.

    What is remembered stays on the device that computed it, and is kept a few batches at a time.

    Args:
      patch_fn: the features.
      params: its parameters, on all devices.
      batches: (step) -> from that one on, this process's share of images, labels and valid, as of
        `in_context_data.Reader`.
      number: of batches, S.
      image: [B, S, S, channels] uint8, a batch of all processes.
      kept: (step) -> where what is remembered of `PART` batches from that one on is kept.
      per_image: patches that are remembered of an image, n; which, see `draw_patches`.
      num_classes: C.
      seed: of the draw.
      dtype: of the bank's features.
      mesh: the devices.

    Raises:
      UserError: if an image cannot be read, or what is kept cannot be read or written.
    """
    layout = batch_sharding(mesh)
    width = jax.eval_shape(patch_fn, params, image).shape[-1]

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

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=layout)
    def put(bank: PatchBank, part: PatchBank, step: Array) -> PatchBank:
        update = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
        return PatchBank(*(update(old, new, step) for old, new in zip(bank, part, strict=True)))

    @functools.partial(jax.jit, static_argnames="size", out_shardings=replicated(mesh))
    def cut(bank: PatchBank, step: Array, size: int) -> PatchBank:
        return PatchBank(*(jax.lax.dynamic_slice_in_dim(x, step, size, axis=1) for x in bank))

    def empty(size: int) -> PatchBank:
        shape = image.shape[0], size, per_image
        return PatchBank(
            jnp.zeros((*shape, width), dtype), jnp.zeros((*shape, num_classes), jnp.uint16)
        )

    bank, done = jax.jit(functools.partial(empty, number), out_shardings=layout)(), 0
    while done < number and (arrays := kept(done).read()):
        size = min(PART, number - done)
        part = _part(arrays, jax.eval_shape(functools.partial(empty, size)))
        if part is None:
            raise kept(done).damaged(ValueError("arrays of other shapes"))
        bank = put(bank, jax.tree.map(functools.partial(_spread, layout=layout), part), done)
        done += size
    for step, batch in enumerate(batches(done) if done < number else (), done):
        bank = remember(bank, params, to_global(batch, mesh), step)
        if (step + 1) % PART == 0 or step + 1 == number:
            first = step // PART * PART
            part = jax.device_get(cut(bank, first, size=step + 1 - first))
            kept(first).write(part._asdict())
    return bank


def _part(arrays: dict[str, np.ndarray], like: PatchBank) -> PatchBank | None:
    """Returns what was kept of some batches; None if it is something else."""
    found = []
    for name, wanted in like._asdict().items():
        array = arrays.get(name)
        if np.shape(array) != wanted.shape or array.dtype.itemsize != wanted.dtype.itemsize:
            return None
        found.append(array.view(wanted.dtype))  # of bfloat16 NumPy's files know the size alone
    return PatchBank(*found)


def _spread(array: np.ndarray, layout: jax.sharding.Sharding) -> jax.Array:
    """Returns an array that all processes have, each device with its part."""
    return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])


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
