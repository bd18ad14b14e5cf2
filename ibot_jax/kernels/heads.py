"""Queries, keys and values by heads."""

import jax

from ibot_jax.kernels.linear import add_bias
from ibot_jax.kernels.specs import AttentionSpec

Array = jax.Array


def split_heads(x: Array, name: str, biases: dict[str, Array], spec: AttentionSpec) -> Array:
    """Returns [B, T, heads, head_dim] of [B, T, D], with the bias that the specification names.

    Args:
      x: queries, keys or values.
      name: which of them, "query", "key" or "value".
      biases: [D] by name.
      spec: the specification.
    """
    if name in spec.biases:
        x = add_bias(x, biases[name])
    return x.reshape(*x.shape[:2], spec.heads, spec.head_dim)
