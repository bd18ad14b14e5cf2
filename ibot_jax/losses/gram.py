"""Gram anchoring: patches stay as alike as they are for an earlier teacher (DINOv3, section 4.2).

Arrays are float32 (float64 in parity runs). V views, N patch tokens of a view, D and D' widths,
which may differ: only likenesses between patches are compared.
"""

import jax
import jax.numpy as jnp

from ibot_jax.models.positions import interpolation_matrix

Array = jax.Array

_SMALLEST = 1e-12  # of a norm by which a token is divided


def gram_loss(
    student: Array,
    teacher: Array,
    used: Array | None = None,
    *,
    level: str = "image",
    negatives: str = "keep",
    normalize: bool = True,
) -> Array:
    """Mean squared difference of the likenesses of pairs of patches.

    Args:
      student: [V, N, D] patch tokens.
      teacher: [V, N, D'] patch tokens of the same views.
      used: [V, N] bool, the tokens that count, for level "batch"; None for all.
      level: "image" for pairs within a view, "batch" for pairs of all V * N tokens.
      negatives: "keep"; "drop", which makes all negative likenesses 0; or "drop_teacher", which
        does so with the teacher's alone.
      normalize: whether a likeness is a cosine, or the product as it is.

    Returns:
      Scalar; no gradient flows into the teacher's tokens.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if normalize:
        student, teacher = _unit(student), _unit(teacher)
    if level == "batch":
        student, teacher = (x.reshape(1, -1, x.shape[-1]) for x in (student, teacher))
    student, teacher = (
        jnp.einsum("vnd,vmd->vnm", x, x, precision="highest") for x in (student, teacher)
    )
    if negatives != "keep":
        teacher = jnp.maximum(teacher, 0)
    if negatives == "drop":
        student = jnp.maximum(student, 0)
    squares = jnp.square(student - teacher)
    if used is None:
        return squares.mean()
    weights = used.reshape(-1).astype(squares.dtype)
    return weights @ squares[0] @ weights / jnp.maximum(weights.sum(), 1) ** 2


def resize_patches(patches: Array, grid: tuple[int, int], antialias: bool = False) -> Array:
    """Resizes maps of patch tokens bicubically, as PyTorch's `interpolate` does.

    Args:
      patches: [V, H, W, D].
      grid: (h, w), what they are resized to.
      antialias: whether the kernel is as wide as a patch of the smaller grid.

    Returns:
      [V, h, w, D]; where the grids agree, `patches` itself.
    """
    if patches.shape[1:3] == tuple(grid):
        return patches
    rows, columns = (
        interpolation_matrix(*sides, 0.0, antialias).astype(patches.dtype)
        for sides in zip(patches.shape[1:3], grid, strict=True)
    )
    return jnp.einsum("hH,wW,vHWd->vhwd", rows, columns, patches, precision="highest")


def _unit(x: Array) -> Array:
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST**2))
