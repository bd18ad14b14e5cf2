"""Rotary positions (RoPE) of patch tokens on their grid, as DINOv3 has them.

A head's columns are rotated in pairs (`kernels.rotary`) by angles that grow with a patch's row,
those of the first half of the pairs, or column. Coordinates lie between -1 and 1.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

COORDINATES = {
    "separate": lambda rows, columns: (rows, columns),
    "min": lambda rows, columns: (min(rows, columns),) * 2,
    "max": lambda rows, columns: (max(rows, columns),) * 2,
}  # by what rows and columns are divided


@dataclasses.dataclass(frozen=True)
class Rope:
    """The rotations of a head.

    Attributes:
      head_dim: columns of a head, a multiple of 4.
      base: of the periods, base^(k / (head_dim / 4)) for the k-th pair; without `periods`.
      periods: shortest and longest period, geometrically spaced; () without.
      coordinates: "separate", rows and columns go from -1 to 1 each; "min", "max", the shorter or
        longer side does.
    """

    head_dim: int
    base: float = 100.0
    periods: tuple[float, ...] = ()
    coordinates: str = "separate"

    def table(self, grid: tuple[int, int], dtype: jnp.dtype, noise: Array | None = None) -> Array:
        """Returns cosines and sines of each patch's angles, [2, h * w, head_dim].

        Args:
          grid: (h, w) of the patches.
          dtype: in which angles are formed; bfloat16 rounds after each operation.
          noise: [2, 2] of training, see `draw_noise`; None leaves it out.
        """
        low = dtype == jnp.bfloat16
        exact, dtype = (_to_bfloat16, jnp.float32) if low else ((lambda x: x), dtype)
        whole = COORDINATES[self.coordinates](*grid)
        sides = []
        for side, number, length in zip((0, 1), grid, whole, strict=True):
            x = exact(exact(jnp.arange(number, dtype=dtype) + 0.5) / length)
            x = exact(exact(2.0 * x) - 1.0)
            if noise is not None:
                x = exact(exact(x + exact(noise[0, side])) * exact(noise[1, side]))
            sides.append(x)
        rows, columns = jnp.meshgrid(*sides, indexing="ij")
        coordinates = jnp.stack([rows, columns], axis=-1).reshape(-1, 2, 1)
        periods = exact(jnp.asarray(self.all_periods(), dtype))
        angles = exact(exact(2 * math.pi * coordinates) / periods)
        angles = jnp.tile(angles.reshape(-1, self.head_dim // 2), (1, 2))
        table = jnp.stack([exact(jnp.cos(angles)), exact(jnp.sin(angles))])
        return table.astype(jnp.bfloat16) if low else table

    def all_periods(self) -> np.ndarray:
        """Returns the periods of the pairs of a side's angles, [head_dim / 4] float64."""
        pairs = self.head_dim // 4
        if not self.periods:
            return self.base ** (np.arange(pairs) / pairs)
        shortest, longest = self.periods
        return shortest * (longest / shortest) ** np.linspace(0, 1, pairs)


def draw_noise(
    rng: Array, shape: tuple[int, ...], shift: float, jitter: float, rescale: float
) -> Array:
    """Draws how training moves and stretches coordinates, block by block.

    Args:
      rng: key.
      shape: of the draws, [...].
      shift: at most so much is added to an axis; 0 for nothing.
      jitter: each axis is multiplied by a factor between 1 / jitter and jitter; 1 for nothing.
      rescale: both axes are multiplied by a factor between 1 / rescale and rescale; 1 for nothing.

    Returns:
      [..., 2, 2] float32: what is added to rows and columns, and their factors.
    """
    keys = jax.random.split(rng, 3)
    shifts = shift * jax.random.uniform(keys[0], (*shape, 2), minval=-1)
    logs = math.log(jitter) * jax.random.uniform(keys[1], (*shape, 2), minval=-1)
    logs += math.log(rescale) * jax.random.uniform(keys[2], (*shape, 1), minval=-1)
    return jnp.stack([shifts, jnp.exp(logs)], axis=-2)


def _to_bfloat16(x: Array) -> Array:
    """Rounds to the nearest bfloat16, as an operation in it would, and keeps the dtype."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
