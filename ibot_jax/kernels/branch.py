"""The branches of a block, from norm to residual: their definition, and who computes them instead.

Tokens of all sequences are one table [B * T, D]: of three dimensions, a TPU's compiler might turn
the first two.
"""

import jax
import jax.numpy as jnp

from ibot_jax.kernels.attention import attention, attention_weights
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.gelu import gelu
from ibot_jax.kernels.layer_norm import layer_norm
from ibot_jax.kernels.linear import linear
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec, MlpBranchSpec
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.parallel.tensor import split_over_tensor

Array = jax.Array

_NORMS = {"layer": layer_norm}
_ACTIVATIONS = {"gelu": gelu}


def branch(
    x: Array,
    params: dict,
    spec: AttentionBranchSpec | MlpBranchSpec,
    kernels: Kernels = XLA,
    gains: Array | None = None,
) -> Array:
    """Computes what a specification says, residual included.

    Args:
      x: [R, D] tokens of all sequences.
      params: {"norm": {"scale" [D], "bias" [D]}, ...} with the layers {"kernel" [inputs, outputs],
        "bias" [outputs]} "qkv" (queries, keys and values beside each other) and "proj", or "fc1"
        and "fc2"; and "layer_scale" [D], where the specification has one.
      spec: the specification.
      kernels: that may compute it.
      gains: [R, 1] of stochastic depth, not differentiated; with `spec.gains`.

    Returns:
      [R, D] of the specification's dtype.
    """
    implementation = kernels.first(spec, tpu_attention_branch, tpu_mlp)
    if implementation is not None:
        return implementation.branch(x, params, gains, spec, kernels.device)
    normed = _NORMS[spec.norm](x, params["norm"], spec.epsilon, _dtype(spec))
    if isinstance(spec, AttentionBranchSpec):
        out = self_attention(normed, params, spec.attention, kernels)
    else:
        out = _mlp(normed, params, spec)
    if spec.layer_scale:
        out = out * params["layer_scale"].astype(out.dtype)
    if spec.gains:
        out = out * gains.astype(out.dtype)
    return split_over_tensor(x + out, None)


def branch_attention(x: Array, params: dict, spec: AttentionBranchSpec) -> Array:
    """Returns the attention weights within `branch`, [B, heads, T, T]."""
    normed = _NORMS[spec.norm](x, params["norm"], spec.epsilon, _dtype(spec))
    (query, key, _), biases = query_key_value(normed, params["qkv"], spec.attention)
    return attention_weights(query, key, biases, spec.attention)


def self_attention(
    x: Array, params: dict, spec: AttentionSpec, kernels: Kernels = XLA, **operands: Array
) -> Array:
    """Maps tokens [B * T, D] to the projected attention among those of each sequence.

    `params` has "qkv" and "proj"; `operands` are further ones of `attention`.
    """
    products, biases = query_key_value(x, params["qkv"], spec)
    out = attention(*products, biases, spec, kernels, **operands)
    return linear(out.reshape(x.shape), params["proj"], jnp.dtype(spec.dtype))


def query_key_value(
    x: Array, params: dict, spec: AttentionSpec
) -> tuple[list[Array], dict[str, Array]]:
    """Returns queries, keys and values [B, T, D], and the biases [D] still to be added, by name.

    The three are multiplied apart. The parameters are small; a TPU would copy what one product of
    them all gives, and its gradient, to take it apart and to put it together.
    """
    dtype = jnp.dtype(spec.dtype)
    # Whole first, for each of the three is split into heads.
    parts = jnp.split(split_over_tensor(params["kernel"].astype(dtype), None), 3, axis=1)
    products = [x.astype(dtype) @ split_over_tensor(part, 1) for part in parts]
    biases = {}
    if spec.biases:
        biases = jnp.split(split_over_tensor(params["bias"], None), 3)
        biases = {name: split_over_tensor(bias, 0) for name, bias in zip(QKV, biases, strict=True)}
    return [product.reshape(spec.batch, spec.tokens, spec.width) for product in products], biases


def _mlp(x: Array, params: dict, spec: MlpBranchSpec) -> Array:
    dtype = jnp.dtype(spec.dtype)
    hidden = split_over_tensor(linear(x, params["fc1"], dtype), 1)
    return linear(_ACTIVATIONS[spec.activation](hidden), params["fc2"], dtype)


def _dtype(spec: AttentionBranchSpec | MlpBranchSpec) -> jnp.dtype:
    return jnp.dtype(spec.attention.dtype if isinstance(spec, AttentionBranchSpec) else spec.dtype)
