"""The branches of a block, from norm to residual: their definition, and who computes them instead.

Tokens of all sequences are one table [B * T, D]: of three dimensions, a TPU's compiler might turn
the first two.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ibot_jax.kernels.attention import attention, attention_weights
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.gelu import gelu
from ibot_jax.kernels.layer_norm import NORMS
from ibot_jax.kernels.linear import add_bias, linear
from ibot_jax.kernels.rotary import rotate
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec, MlpBranchSpec
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.parallel.tensor import split_over_tensor

Array = jax.Array


def branch(
    x: Array,
    params: dict,
    spec: AttentionBranchSpec | MlpBranchSpec,
    kernels: Kernels = XLA,
    gains: Array | None = None,
    rotation: Array | None = None,
) -> Array:
    """Computes what a specification says, residual included.

    Args:
      x: [R, D] tokens of all sequences.
      params: {"norm": {"scale" [D], "bias" [D]}, ...} with the layers {"kernel" [inputs, outputs],
        "bias" [outputs]} "qkv" (queries, keys and values beside each other) and "proj", or "fc1"
        (with "swiglu" "gate" and "value") and "fc2"; and where the specification has them
        "layer_scale" [D], and the norms of heads "q_norm" and "k_norm".
      spec: the specification.
      kernels: that may compute it.
      gains: [R, 1] of stochastic depth, not differentiated; with `spec.gains`.
      rotation: [2, N, head_dim], see `rotary.rotate`; where positions are "rotary".

    Returns:
      [R, D] of the specification's dtype.
    """
    # No kernel has a LayerScale, but a last layer with its columns scaled needs none.
    unscaled = dataclasses.replace(spec, layer_scale=False)
    implementation = kernels.first(unscaled, tpu_attention_branch, tpu_mlp)
    if implementation is not None:
        if spec.layer_scale:
            params = _with_scaled_columns(params, spec)
        return implementation.branch(x, params, gains, unscaled, kernels.device)
    normed = NORMS[spec.norm](x, params["norm"], spec.epsilon, _dtype(spec))
    if isinstance(spec, AttentionBranchSpec):
        out = self_attention(normed, params, spec.attention, kernels, rotation)
    else:
        out = _mlp(normed, params, spec)
    if spec.layer_scale:
        out = out * params["layer_scale"].astype(out.dtype)
    if spec.gains:
        out = out * gains.astype(out.dtype)
    return split_over_tensor(x + out, None)


def _with_scaled_columns(params: dict, spec: AttentionBranchSpec | MlpBranchSpec) -> dict:
    """Returns the parameters of a branch whose last layer does what LayerScale would."""
    last = "proj" if isinstance(spec, AttentionBranchSpec) else "fc2"
    scaled = {name: value * params["layer_scale"] for name, value in params[last].items()}
    kept = {name: value for name, value in params.items() if name != "layer_scale"}
    return kept | {last: scaled}


def branch_attention(
    x: Array, params: dict, spec: AttentionBranchSpec, rotation: Array | None = None
) -> tuple[Array, Array]:
    """Returns the attention weights within `branch`, [B, heads, T, T], and its `keys`."""
    normed = NORMS[spec.norm](x, params["norm"], spec.epsilon, _dtype(spec))
    own_keys = keys(normed, params, spec.attention)
    (query, key, _), biases, spec = query_key_value(normed, params, spec.attention, rotation)
    return attention_weights(query, key, biases, spec), own_keys


def keys(x: Array, params: dict, spec: AttentionSpec) -> Array:
    """Returns the keys of tokens [B * T, D] as `qkv` gives them, [B, T, D]: heads side by side.

    Neither normalised by head nor rotated.
    """
    (_, key, _), biases = _products(x, params["qkv"], spec)
    return add_bias(key, biases["key"]) if "key" in biases else key


def self_attention(
    x: Array,
    params: dict,
    spec: AttentionSpec,
    kernels: Kernels = XLA,
    rotation: Array | None = None,
    **operands: Array,
) -> Array:
    """Maps tokens [B * T, D] to the projected attention among those of each sequence.

    `params` has "qkv" and "proj" and, where the specification has them, the norms of heads;
    `operands` are further ones of `attention`.
    """
    products, biases, inner = query_key_value(x, params, spec, rotation)
    out = attention(*products, biases, inner, kernels, **operands)
    return linear(out.reshape(x.shape), params["proj"], jnp.dtype(spec.dtype))


def query_key_value(
    x: Array, params: dict, spec: AttentionSpec, rotation: Array | None = None
) -> tuple[list[Array], dict[str, Array], AttentionSpec]:
    """Returns queries, keys and values [B, T, D], biases [D] by name, and what is left to do.

    Norms of heads and rotations are done with here, so that the attention that is left is one which
    implementations know.
    """
    products, biases = _products(x, params["qkv"], spec)
    if spec.head_norm == "none" and spec.positions != "rotary":
        return products, biases, spec
    products = [
        add_bias(product, biases[name]) if name in biases else product
        for name, product in zip(QKV, products, strict=True)
    ]
    by_head = (spec.batch, spec.tokens, spec.heads, spec.head_dim)
    for number, norm in enumerate(("q_norm", "k_norm")):
        x = products[number].reshape(by_head)
        if spec.head_norm != "none":
            x = NORMS[spec.head_norm](x, params[norm], spec.head_norm_epsilon, x.dtype)
        if spec.positions == "rotary":
            x = rotate(x, rotation)
        products[number] = x.reshape(products[number].shape)
    positions = "none" if spec.positions == "rotary" else spec.positions
    left = dict(biases=(), head_norm="none", head_norm_epsilon=0.0, positions=positions)
    return products, {}, dataclasses.replace(spec, **left)


def _products(x: Array, params: dict, spec: AttentionSpec) -> tuple[list[Array], dict[str, Array]]:
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
        biases = {
            name: split_over_tensor(bias, 0)
            for name, bias in zip(QKV, biases, strict=True)
            if name in spec.biases
        }
    return [product.reshape(spec.batch, spec.tokens, spec.width) for product in products], biases


def _mlp(x: Array, params: dict, spec: MlpBranchSpec) -> Array:
    dtype = jnp.dtype(spec.dtype)

    def layer(name: str) -> Array:
        return split_over_tensor(linear(x, params[name], dtype), 1)

    if spec.activation == "swiglu":
        hidden = jax.nn.silu(layer("gate")) * layer("value")
    elif spec.activation == "gelu":
        hidden = gelu(layer("fc1"))
    else:
        raise ValueError(f"activation={spec.activation!r} is not defined")
    return linear(hidden, params["fc2"], dtype)


def _dtype(spec: AttentionBranchSpec | MlpBranchSpec) -> jnp.dtype:
    return jnp.dtype(spec.attention.dtype if isinstance(spec, AttentionBranchSpec) else spec.dtype)
