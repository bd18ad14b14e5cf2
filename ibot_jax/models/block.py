"""The transformer block: attention, MLP, stochastic depth (paper, section 4.1)."""

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
    shape: tuple[int, int, int], heads: int, dtype: jnp.dtype, owners: tuple[int, ...] = ()
) -> AttentionSpec:
    """Specifies the attention among tokens [B, T, D], whose parameters are `AttentionParams`."""
    scale = (shape[-1] // heads) ** -0.5
    return AttentionSpec(*shape, heads, jnp.dtype(dtype).name, scale, QKV, owners)


def mlp_spec(
    rows: int,
    width: int,
    hidden_dim: int,
    dtype: jnp.dtype,
    norm_eps: float,
    **options: bool,
) -> MlpBranchSpec:
    """Specifies the MLP's branch of tokens [rows, width], whose parameters are `MlpParams`.

    `options` are `layer_scale` and `gains`.
    """
    name = jnp.dtype(dtype).name
    return MlpBranchSpec(rows, width, hidden_dim, name, "gelu", "layer", norm_eps, **options)


class AttentionParams(nn.Module):
    """The parameters of self-attention: `qkv` [D, 3 D] and `proj` [D, D], with biases."""

    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, width: int) -> dict[str, dict[str, Array]]:
        """Returns {"qkv": ..., "proj": ...}, see `LinearParams`."""
        return {
            "qkv": LinearParams(3 * width, self.param_dtype, name="qkv")(width),
            "proj": LinearParams(width, self.param_dtype, name="proj")(width),
        }


class MlpParams(nn.Module):
    """The parameters of an MLP, F = `hidden_dim`: `fc1` [D, F] and `fc2` [F, D], with biases."""

    hidden_dim: int
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, width: int) -> dict[str, dict[str, Array]]:
        """Returns {"fc1": ..., "fc2": ...}, see `LinearParams`."""
        return {
            "fc1": LinearParams(self.hidden_dim, self.param_dtype, name="fc1")(width),
            "fc2": LinearParams(width, self.param_dtype, name="fc2")(self.hidden_dim),
        }


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth and optional LayerScale.

    It declares its parameters and specifies its two branches; `kernels.branch` computes them.

    Attributes:
      heads: attention heads.
      hidden_dim: of the MLP.
      layer_scale: initial gain of each branch's output; 0 leaves LayerScale out.
      norm_eps: added to the variance by the norms.
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

    @nn.compact
    def __call__(
        self,
        x: Array,
        gains: Array | None = None,
        owners: tuple[int, ...] = (),
        only_attention: bool = False,
    ) -> Array:
        """Maps [B, T, D] tokens to [B, T, D], or to [B, heads, T, T] attention weights.

        `gains` [2, B, T or 1, 1] multiply the outputs of the two branches; None is 1. With `owners`
        [T], a token attends only to those of the same owner, its neighbours.
        """
        batch, tokens, width = shape = x.shape
        kernels = XLA if self.is_initializing() else self.kernels
        attention = attention_spec(shape, self.heads, self.dtype, owners)
        own_gains = (None, None)
        if gains is not None:
            own_gains = jnp.broadcast_to(gains, (2, batch, tokens, 1)).reshape(2, -1, 1)
        options = dict(layer_scale=bool(self.layer_scale), gains=gains is not None)
        # As one table of tokens, whole on each device, or the width would be spread.
        x = split_over_tensor(x.reshape(-1, width), None)
        params = self._params(1, AttentionParams(self.param_dtype, name="attn"), width)
        spec = AttentionBranchSpec(attention, "layer", self.norm_eps, **options)
        if only_attention:
            return branch_attention(x, params, spec)
        x = branch(x, params, spec, kernels, own_gains[0])
        params = self._params(2, MlpParams(self.hidden_dim, self.param_dtype, name="mlp"), width)
        sizes = (x.shape[0], width, self.hidden_dim)
        spec = mlp_spec(*sizes, self.dtype, self.norm_eps, **options)
        return branch(x, params, spec, kernels, own_gains[1]).reshape(shape)

    def _params(self, number: int, layers: AttentionParams | MlpParams, width: int) -> dict:
        """Declares the parameters of a branch, as `kernels.branch` takes them."""
        params = {
            "norm": NormParams(self.param_dtype, name=f"norm{number}")(width),
            **layers(width),
        }
        if self.layer_scale:
            init = nn.initializers.constant(self.layer_scale)
            params["layer_scale"] = self.param(f"gamma_{number}", init, (width,), self.param_dtype)
        return params


def drop_path_gains(rng: Array, rate: float, depth: int, shape: tuple[int, ...]) -> Array:
    """Draws which branches stochastic depth skips, sample by sample.

    Args:
      rng: key.
      rate: probability of skipping a branch of the last block; the first has 0, linear between.
      depth: number of blocks.
      shape: of the samples, [...].

    Returns:
      [..., depth, 2] float32: 0 for a branch that is skipped, else 1 / (1 - its probability).
    """
    keep_share = 1 - np.linspace(0, rate, depth, dtype=np.float32)[:, None]
    kept = jax.random.uniform(rng, (*shape, depth, 2)) < keep_share
    return jnp.where(kept, 1 / keep_share, 0)
