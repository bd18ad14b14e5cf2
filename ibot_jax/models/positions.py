"""Learned positions on another grid of patches: bicubic resampling, one axis after the other."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def interpolation_matrix(
    trained: int, wanted: int, offset: float = 0.1, antialias: bool = False
) -> np.ndarray:
    """Bicubic weights that resample one axis of a grid, as PyTorch's `interpolate` has them.

    Half-pixel centres; borders are repeated, and cut off (weights renormalised) with antialiasing.
    The cubic convolution has a = -0.75, with antialiasing -0.5.

    Args:
      trained: patches along the axis in training.
      wanted: patches along the axis of the input.
      offset: the scale is (wanted + offset) / trained: 0.1 in DINO and iBOT.
      antialias: whether the kernel is as wide as a patch of the smaller grid.

    Returns:
      [wanted, trained] float64; every row sums to 1.
    """
    scale = trained / (wanted + offset)
    centers = (np.arange(wanted) + 0.5) * scale - 0.5  # in patches of training
    if antialias:
        wide = max(scale, 1.0)
        distance = (np.arange(trained) - centers[:, None]) / wide
        weights = np.where(np.abs(distance) < 2, _cubic(distance, -0.5), 0)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((wanted, trained))
    base = np.floor(centers).astype(int)
    for tap in range(-1, 3):
        columns = np.clip(base + tap, 0, trained - 1)
        np.add.at(weights, (np.arange(wanted), columns), _cubic(centers - (base + tap), -0.75))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The kernel of cubic convolution within two steps of its centre."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def resample_positions(
    pos_embed: Array,
    trained: tuple[int, int],
    wanted: tuple[int, int],
    offset: float = 0.1,
    antialias: bool = False,
) -> Array:
    """Resamples positions to another grid of patches; that of the class token stays.

    Args:
      pos_embed: [1, 1 + H * W, D] for the trained grid (H, W).
      trained: (rows, columns) of patches in training.
      wanted: (rows, columns) of patches of the input, (h, w).
      offset: see `interpolation_matrix`.
      antialias: see `interpolation_matrix`.

    Returns:
      [1, 1 + h * w, D], of the same dtype; where the grids agree, `pos_embed` itself.
    """
    if tuple(wanted) == tuple(trained):
        return pos_embed
    width = pos_embed.shape[-1]
    patches = jnp.einsum(
        "hH,wW,HWd->hwd",
        *(
            interpolation_matrix(*sides, offset, antialias).astype(pos_embed.dtype)
            for sides in zip(trained, wanted, strict=True)
        ),
        pos_embed[0, 1:].reshape(*trained, width),
        precision="highest",
    )
    return jnp.concatenate([pos_embed[:, :1], patches.reshape(1, -1, width)], axis=1)
