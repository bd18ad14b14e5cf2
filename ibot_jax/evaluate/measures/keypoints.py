"""Points of one image found again in another, and how many of them (PCK).

Features of patches count as if they were enlarged bilinearly to the pixels of their image, which
they never are: what is needed of a pixel follows from the patches around it. Shape letters: h and w
patches, F features, K points, H and W pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def at_points(grid: Array, points: Array, size: Array) -> Array:
    """Returns the features of pixels.

    Args:
      grid: [h, w, F], of an image.
      points: [K, 2] of its pixels, (x, y).
      size: [2], its height and width in pixels.

    Returns:
      [K, F].
    """
    left, right, across = _between(points[:, 0], grid.shape[1], size[1])
    top, bottom, down = _between(points[:, 1], grid.shape[0], size[0])
    across, down = across[:, None], down[:, None]
    upper = (1 - across) * grid[top, left] + across * grid[top, right]
    lower = (1 - across) * grid[bottom, left] + across * grid[bottom, right]
    return (1 - down) * upper + down * lower


def nearest_pixels(grid: Array, vectors: Array, size: Array, canvas: tuple[int, int]) -> Array:
    """Finds the pixel whose features have the largest cosine with each vector, the first of equals.

    Works row by row: memory grows with K and the width of the canvas.

    Args:
      grid: [h, w, F], of an image.
      vectors: [K, F].
      size: [2], its height and width in pixels, which may be traced.
      canvas: no smaller height and width, the same for images of all sizes.

    Returns:
      [K, 2] int32, (x, y).
    """
    columns = jnp.arange(canvas[1])
    left, right, across = _between(columns, grid.shape[1], size[1])
    rows = jnp.arange(canvas[0])
    top, bottom, down = _between(rows, grid.shape[0], size[0])

    def one_row(best, row):
        number, top, bottom, down = row
        line = (1 - down) * grid[top] + down * grid[bottom]  # [w, F]
        products = jnp.matmul(line, vectors.T, precision="highest")  # [w, K]
        squares = (line**2).sum(axis=-1)
        beside = (line * jnp.roll(line, -1, axis=0)).sum(axis=-1)  # of two that are neighbours
        lengths = jnp.sqrt(
            (1 - across) ** 2 * squares[left]
            + 2 * across * (1 - across) * beside[left]
            + across**2 * squares[right]
        )
        cosine = (1 - across)[:, None] * products[left] + across[:, None] * products[right]
        cosine /= jnp.maximum(lengths, jnp.finfo(lengths.dtype).tiny)[:, None]
        inside = (columns < size[1]) & (number < size[0])
        cosine = jnp.where(inside[:, None], cosine, -jnp.inf)
        value, points = best
        own = cosine.max(axis=0)
        place = jnp.stack([cosine.argmax(axis=0), jnp.full(len(own), number)], axis=-1)
        better = own > value
        return (jnp.where(better, own, value), jnp.where(better[:, None], place, points)), None

    number = len(vectors)
    none = jnp.full(number, -jnp.inf, vectors.dtype), jnp.zeros((number, 2), jnp.int32)
    return jax.lax.scan(one_row, none, (rows, top, bottom, down))[0][1]


def correct(
    found: np.ndarray,
    truth: np.ndarray,
    box: tuple[float, float, float, float],
    alphas: Sequence[float],
) -> np.ndarray:
    """Tells which points were found: off by no more than alpha times the box's longer side.

    Args:
      found: [K, 2] (x, y).
      truth: [K, 2].
      box: (left, top, right, bottom).
      alphas: A shares of the longer side.

    Returns:
      [A, K] bool.
    """
    side = max(box[2] - box[0], box[3] - box[1])
    off = np.linalg.norm(np.asarray(found, np.float64) - truth, axis=-1)
    return off <= np.array(alphas)[:, None] * side


def _between(pixels: Array, cells: int, size: Array) -> tuple[Array, Array, Array]:
    """Returns the cells on both sides of pixels' middles, and how far they are from the first."""
    place = jnp.clip((pixels + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = jnp.floor(place).astype(jnp.int32)
    return low, jnp.minimum(low + 1, cells - 1), place - low
