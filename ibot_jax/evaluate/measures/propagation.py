"""Labels passed on from frame to frame by the similarity of patches (Jabri et al., 2006.14613).

A patch takes the labels of the patches that are most like it, of those near its place in the first
frame and in the last few. Shape letters: S frames remembered, h and w patches, D width, C labels
(the background first).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ibot_jax.evaluate.measures.cosine import unit

Array = jax.Array


class Memory(NamedTuple):
    """The first frame and the last ones.

    Attributes:
      features: [S, h, w, D], of length 1; the first frame, then the last S - 1 in a ring.
      labels: [S, h, w, C], a share of each label.
      frames: [] int32, how many frames were remembered.
    """

    features: Array
    labels: Array
    frames: Array


def remember_first(features: Array, labels: Array, last_frames: int) -> Memory:
    """Returns a memory of the first frame, with room for more.

    Args:
      features: [h, w, D].
      labels: [h, w, C], 1 for the label of a patch and else 0.
      last_frames: how many frames besides the first are remembered, S - 1.
    """

    def with_room(x):
        return jnp.pad(x[None], ((0, last_frames), (0, 0), (0, 0), (0, 0)))

    return Memory(with_room(unit(features)), with_room(labels), jnp.int32(1))


def remember(memory: Memory, features: Array, labels: Array) -> Memory:
    """Returns the memory with another frame [h, w, D] and its labels [h, w, C], the oldest gone."""
    slot = 1 + (memory.frames - 1) % (len(memory.features) - 1)
    return Memory(
        memory.features.at[slot].set(unit(features)),
        memory.labels.at[slot].set(labels),
        memory.frames + 1,
    )


def propagate(
    memory: Memory,
    features: Array,
    *,
    radius: int,
    top_k: int,
    temperature: float,
    circle: bool = False,
) -> Array:
    """Computes the labels of a frame.

    For each patch: of all remembered patches whose row and column differ by no more than the
    radius (or which are no further away than it, in a circle), the top_k most similar (equally
    similar ones are not told apart) give their labels, weighted by exp(cosine / temperature). Works
    row by row: memory grows with radius x w^2 x S.

    Args:
      memory: of the frames before.
      features: [h, w, D].
      radius: in patches.
      top_k: how many patches count.
      temperature: of the weights.
      circle: whether the radius is that of a circle, not half the side of a square.

    Returns:
      [h, w, C] shares of each label.
    """
    slots, rows, columns, num_labels = memory.labels.shape
    window = 2 * radius + 1
    around = ((0, 0), (radius, radius), (0, 0), (0, 0))
    sources = jnp.pad(memory.features, around)
    labels = jnp.pad(memory.labels, around)
    there = jnp.arange(slots) < memory.frames
    there = jnp.pad(jnp.repeat(there[:, None], rows, axis=1), around[:2])  # [S, rows with borders]
    distance = jnp.abs(jnp.arange(columns)[:, None] - jnp.arange(columns))
    near = (distance <= radius)[:, None, :]
    if circle:
        above = jnp.arange(window) - radius
        near = above[None, :, None] ** 2 + distance[:, None, :] ** 2 <= radius**2
    near = near[:, None]  # [w, S, rows of the window, w]

    def one_row(row):
        number, targets = row  # targets: [w, D]
        of_sources, of_labels, usable = (
            jax.lax.dynamic_slice_in_dim(x, number, window, axis=1)
            for x in (sources, labels, there)
        )
        cosine = jnp.einsum("wd,srud->wsru", targets, of_sources, precision="highest")
        cosine = jnp.where(near & usable[:, :, None], cosine, -jnp.inf).reshape(columns, -1)
        best = jax.lax.top_k(cosine, min(top_k, cosine.shape[1]))[0]
        # Relative to the best, which scales all weights alike.
        weights = jnp.exp((cosine - best[:, :1]) / temperature)
        weights = jnp.where(cosine >= best[:, -1:], weights, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        of_labels = of_labels.reshape(slots * window * columns, num_labels)
        return jnp.matmul(weights, of_labels, precision="highest")

    return jax.lax.map(one_row, (jnp.arange(rows), unit(features)))


def decide(labels: Array, size: tuple[int, int]) -> Array:
    """Returns the label of each pixel, [H, W] uint8 of the given size.

    Shares of each label [h, w, C] are interpolated and then stretched to [0, 1] over the frame.
    """
    shares = jax.image.resize(labels, (*size, labels.shape[-1]), "linear")
    shares -= shares.min(axis=(0, 1))
    highest = shares.max(axis=(0, 1))
    return jnp.argmax(shares / jnp.where(highest > 0, highest, 1), axis=-1).astype(jnp.uint8)
