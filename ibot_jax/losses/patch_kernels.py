"""Patch-kernel alignment: the patches of a view are as alike for both networks (PaKA, 2509.05606).

Arrays are float32 (float64 in parity runs). V views, N patch tokens of a view, D and D' widths.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

_SMALLEST = 1e-6  # of the squared norm of a kernel


def patch_kernel_loss(student: Array, teacher: Array, used: Array | None = None) -> Array:
    """One minus the centred kernel alignment (linear CKA) of the tokens of a view, over views.

    Args:
      student: [V, N, D] patch tokens.
      teacher: [V, N, D'] patch tokens of the same views; no gradient flows into them.
      used: [V, N] bool, the tokens that count; None for all.

    Returns:
      Scalar: the mean over views that have at least two tokens; 0 where there is none.
    """
    if used is None:
        used = jnp.ones(student.shape[:2], bool)
    student, teacher = (_centred(x, used) for x in (student, jax.lax.stop_gradient(teacher)))
    both, of_student, of_teacher = (
        # Of two kernels X X' and Y Y', the inner product is the squared norm of X' Y.
        jnp.square(jnp.einsum("vnd,vne->vde", x, y, precision="highest")).sum(axis=(1, 2))
        for x, y in ((student, teacher), (student, student), (teacher, teacher))
    )
    norms = jnp.sqrt(jnp.maximum(of_student, _SMALLEST) * jnp.maximum(of_teacher, _SMALLEST))
    counted = (used.sum(axis=1) > 1).astype(norms.dtype)
    return (counted * (1 - both / norms)).sum() / jnp.maximum(counted.sum(), 1)


def _centred(x: Array, used: Array) -> Array:
    """Returns tokens less their mean over those that count, the others 0."""
    weights = used.astype(x.dtype)[..., None]
    mean = (weights * x).sum(axis=1, keepdims=True) / jnp.maximum(weights.sum(1, keepdims=True), 1)
    return weights * (x - mean)
