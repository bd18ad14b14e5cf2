"""Vectors made ready for cosine similarity."""

import jax
import jax.numpy as jnp


def unit(x: jax.Array) -> jax.Array:
    """Scales vectors [..., D] to length 1; those of zeros stay."""
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(norms, jnp.finfo(x.dtype).tiny)
