"""Multi-head self-attention: its definition, and who computes it instead where they can."""

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels import cudnn
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.heads import split_heads
from ibot_jax.kernels.specs import AttentionSpec
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import long_attention as tpu_long_attention

Array = jax.Array

_IMPLEMENTATIONS = tpu_attention, tpu_long_attention, cudnn


def attention(
    query: Array,
    key: Array,
    value: Array,
    biases: dict[str, Array],
    spec: AttentionSpec,
    kernels: Kernels = XLA,
    position_bias: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Computes what a specification says.

    Args:
      query: [B, T, D], heads side by side.
      key: [B, T, D], likewise.
      value: [B, T, D], likewise.
      biases: [D] by the names in `spec.biases`.
      spec: the specification.
      kernels: that may compute it.
      position_bias: [heads, T, T], with `spec.positions="relative"`.
      mask: [windows, T, T], with `spec.windows`.

    Returns:
      [B, T, D] of `spec.dtype`.
    """
    implementation = kernels.first(spec, *_IMPLEMENTATIONS)
    if implementation is not None:
        return implementation.attention(query, key, value, biases, spec, kernels.device)
    weights = attention_weights(query, key, biases, spec, position_bias, mask)
    value = split_heads(value, "value", biases, spec)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(query.shape)


def writes_weights(spec: AttentionSpec, kernels: Kernels) -> bool:
    """Returns whether [B, heads, T, T] lie in memory."""
    return kernels.first(spec, *_IMPLEMENTATIONS) is None


def attention_weights(
    query: Array,
    key: Array,
    biases: dict[str, Array],
    spec: AttentionSpec,
    position_bias: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Returns the weights of `attention`, [B, heads, T, T] of `spec.dtype`: those of each query."""
    query, key = (
        split_heads(x, name, biases, spec) for x, name in ((query, "query"), (key, "key"))
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * spec.scale, key)
    scores = scores.astype(jnp.promote_types(spec.dtype, jnp.float32))
    if spec.positions == "relative":
        scores += position_bias[None]
    elif spec.positions != "none":
        raise ValueError(f"positions={spec.positions!r} are not defined")
    if spec.windows:
        by_image = scores.reshape(-1, spec.windows, *scores.shape[1:])
        scores = (by_image + mask[None, :, None]).reshape(scores.shape)
    if spec.owners:
        owners = np.asarray(spec.owners)
        scores = jnp.where((owners[:, None] == owners)[None, None], scores, -jnp.inf)
    return jax.nn.softmax(scores).astype(spec.dtype)
