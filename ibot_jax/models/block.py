"""The transformer block: attention, MLP, stochastic depth (paper, section 4.1)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels.branch import branch, branch_attention
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec, MlpBranchSpec
from ibot_jax.models.layer_norm import NormParams
from ibot_jax.models.linear import LinearParams
from ibot_jax.parallel.tensor import split_over_tensor

Array = jax.Array

_BIASES = {"full": QKV, "masked_key": ("query", "value"), "none": ()}  # by `qkv_bias`

# What `remat` keeps from the forward pass; the backward pass computes the rest of a block again.
REMAT_POLICIES = {
    "blocks": jax.checkpoint_policies.nothing_saveable,  # the input of each block
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # and its linear layers
}


def start_of_block(x: Array) -> Array:
    """Keeps XLA's CPU compiler from fusing across blocks.

    It would form the gradient of the residual stream anew, from all blocks behind, in each block:
    work that grows with the square of the depth.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def attention_spec(
    shape: tuple[int, int, int], heads: int, dtype: jnp.dtype, **options: Any
) -> AttentionSpec:
    """Specifies the attention among tokens [B, T, D]; `options` are of `AttentionSpec`."""
    scale = (shape[-1] // heads) ** -0.5
    return AttentionSpec(*shape, heads, jnp.dtype(dtype).name, scale, **{"biases": QKV, **options})


def mlp_spec(
    rows: int,
    width: int,
    hidden_dim: int,
    dtype: jnp.dtype,
    norm_eps: float,
    *,
    activation: str = "gelu",
    norm: str = "layer",
    **options: bool,
) -> MlpBranchSpec:
    """Specifies the feed-forward branch of tokens [rows, width], whose parameters are `MlpParams`.

    `options` are `layer_scale` and `gains`.
    """
    name = jnp.dtype(dtype).name
    return MlpBranchSpec(rows, width, hidden_dim, name, activation, norm, norm_eps, **options)


class AttentionParams(nn.Module):
    """The parameters of self-attention: `qkv` [D, 3 D] and `proj` [D, D].

    Attributes:
      param_dtype: of the parameters.
      qkv_bias: whether `qkv` has a bias; `proj` has one.
      head_dim: columns of a head, where each has norms of queries and keys; 0 without.
      norm: kind of these.
    """

    param_dtype: jnp.dtype
    qkv_bias: bool = True
    head_dim: int = 0
    norm: str = "layer"

    @nn.compact
    def __call__(self, width: int) -> dict[str, dict[str, Array]]:
        """Returns {"qkv": ..., "proj": ...}, see `LinearParams`, and "q_norm" and "k_norm"."""
        params = {
            "qkv": LinearParams(3 * width, self.param_dtype, self.qkv_bias, name="qkv")(width),
            "proj": LinearParams(width, self.param_dtype, name="proj")(width),
        }
        if self.head_dim:
            for name in ("q_norm", "k_norm"):
                params[name] = NormParams(self.param_dtype, self.norm, name=name)(self.head_dim)
        return params


class MlpParams(nn.Module):
    """The parameters of a feed-forward network of F hidden units, with biases.

    Attributes:
      hidden_dim: F.
      param_dtype: of the parameters.
      gated: whether `gate` and `value`, [D, F] each, take the place of `fc1` [D, F]; `fc2` is
        [F, D].
    """

    hidden_dim: int
    param_dtype: jnp.dtype
    gated: bool = False

    @nn.compact
    def __call__(self, width: int) -> dict[str, dict[str, Array]]:
        """Returns the layers by name, see `LinearParams`."""
        first = ("gate", "value") if self.gated else ("fc1",)
        params = {
            name: LinearParams(self.hidden_dim, self.param_dtype, name=name)(width)
            for name in first
        }
        return params | {
            "fc2": LinearParams(width, self.param_dtype, name="fc2")(self.hidden_dim),
        }


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth; all else is by option.

    It declares its parameters and specifies its two branches; `kernels.branch` computes them.

    Attributes:
      heads: attention heads.
      hidden_dim: of the feed-forward network.
      layer_scale: initial gain of each branch's output; 0 leaves LayerScale out.
      norm: "layer", LayerNorm, or "rms", RMSNorm.
      norm_eps: added to the variance by the norms.
      qkv_bias: of which of queries, keys and values the bias counts: "full", all; "masked_key",
        queries and values; "none", there is no parameter.
      qk_norm: whether each head's queries and keys are normalised.
      ffn: "mlp", with GELU, or "swiglu".
      rotary: whether queries and keys are rotated.
      kernels: that may compute it.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    hidden_dim: int
    layer_scale: float
    norm_eps: float
    kernels: Kernels
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    norm: str = "layer"
    qkv_bias: str = "full"
    qk_norm: bool = False
    ffn: str = "mlp"
    rotary: bool = False

    def attention_spec(
        self, shape: tuple[int, int, int], owners: tuple[int, ...] = ()
    ) -> AttentionSpec:
        """Specifies the attention among tokens [B, T, D]; `owners` as in `__call__`."""
        norms = {}
        if self.qk_norm:
            norms = dict(head_norm=self.norm, head_norm_epsilon=self.norm_eps)
        return attention_spec(
            shape,
            self.heads,
            self.dtype,
            biases=_BIASES[self.qkv_bias],
            positions="rotary" if self.rotary else "none",
            owners=owners,
            **norms,
        )

    @nn.compact
    def __call__(
        self,
        x: Array,
        gains: Array | None = None,
        owners: tuple[int, ...] = (),
        rotation: Array | None = None,
        only_attention: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Maps [B, T, D] tokens to [B, T, D], or to attention weights and keys, see `Attention`.

        `gains` [2, B, T or 1, 1] multiply the outputs of the two branches; None is 1. With `owners`
        [T], a token attends only to those of the same owner, its neighbours. `rotation`
        [2, N, head_dim] is that of the last N tokens, with `rotary`.
        """
        batch, tokens, width = shape = x.shape
        kernels = XLA if self.is_initializing() else self.kernels
        own_gains = (None, None)
        if gains is not None:
            own_gains = jnp.broadcast_to(gains, (2, batch, tokens, 1)).reshape(2, -1, 1)
        options = dict(layer_scale=bool(self.layer_scale), gains=gains is not None)
        # As one table of tokens, whole on each device, or the width would be spread.
        x = split_over_tensor(x.reshape(-1, width), None)
        layers = AttentionParams(
            self.param_dtype,
            self.qkv_bias != "none",
            width // self.heads if self.qk_norm else 0,
            self.norm,
            name="attn",
        )
        params = self._params(1, layers, width)
        attention = self.attention_spec(shape, owners)
        spec = AttentionBranchSpec(attention, self.norm, self.norm_eps, **options)
        if only_attention:
            return branch_attention(x, params, spec, rotation)
        x = branch(x, params, spec, kernels, own_gains[0], rotation)
        gated = self.ffn == "swiglu"
        params = self._params(
            2, MlpParams(self.hidden_dim, self.param_dtype, gated, name="mlp"), width
        )
        sizes = (x.shape[0], width, self.hidden_dim)
        options |= dict(activation="swiglu" if gated else "gelu", norm=self.norm)
        spec = mlp_spec(*sizes, self.dtype, self.norm_eps, **options)
        return branch(x, params, spec, kernels, own_gains[1]).reshape(shape)

    def _params(self, number: int, layers: AttentionParams | MlpParams, width: int) -> dict:
        """Declares the parameters of a branch, as `kernels.branch` takes them."""
        params = {
            "norm": NormParams(self.param_dtype, self.norm, name=f"norm{number}")(width),
            **layers(width),
        }
        if self.layer_scale:
            init = nn.initializers.constant(self.layer_scale)
            params["layer_scale"] = self.param(f"gamma_{number}", init, (width,), self.param_dtype)
        return params


def drop_path_gains(
    rng: Array, rate: float, depth: int, shape: tuple[int, ...], kind: str = "linear"
) -> Array:
    """Draws which branches stochastic depth skips.

    Args:
      rng: key.
      rate: probability of skipping a branch of the last block.
      depth: number of blocks.
      shape: of the samples, [...].
      kind: "linear": the first block has 0, linear between, and each sample is drawn by itself.
        "uniform", as in DINOv2: all blocks have the rate, and of n samples drawn together
        max(int(n (1 - rate)), 1) are kept, times n over their number.

    Returns:
      [..., depth, 2] float32: 0 for a branch that is skipped, else the inverse of the share kept.
    """
    if kind == "uniform":
        number = math.prod(shape)
        kept = max(int(number * (1 - rate)), 1)
        order = jax.random.uniform(rng, (number, depth, 2)).argsort(axis=0)
        gains = jnp.where(order < kept, jnp.float32(number / kept), 0)
        return gains.reshape(*shape, depth, 2)
    keep_share = 1 - np.linspace(0, rate, depth, dtype=np.float32)[:, None]
    kept = jax.random.uniform(rng, (*shape, depth, 2)) < keep_share
    return jnp.where(kept, 1 / keep_share, 0)
