"""The transformer block: attention, MLP, stochastic depth (paper, section 4.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.models.gelu import gelu
from ibot_jax.sharding import split_over_tensor

Array = jax.Array

# What timm and the original call trunc_normal_(std=0.02) cuts at 100 standard deviations.
normal_init = nn.initializers.normal(0.02)

LAYER_NORM_EPSILON = 1e-6


def layer_norm(name: str | None, dtype: jnp.dtype, param_dtype: jnp.dtype) -> nn.LayerNorm:
    """LayerNorm with the original's epsilon and two-pass variance, statistics in float32."""
    return nn.LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )


class QueryKeyValue(nn.Module):
    """One linear layer for queries, keys and values: [B, T, D] to three times [B, T, D].

    Its three parts are multiplied apart. The parameters are small; a TPU would copy what one
    product of them all gives, and its gradient, to take it apart and to put it together.

    Attributes:
      dtype: of the computation.
      param_dtype: of the parameters `kernel` [D, 3 D] and `bias` [3 D].
    """

    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        width = x.shape[-1]
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", normal_init, (width, 3 * width), self.param_dtype)
        bias = self.param("bias", zeros, (3 * width,), self.param_dtype)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        # Whole first, for each of the three is split into heads.
        kernels = jnp.split(split_over_tensor(kernel, None), 3, axis=1)
        biases = jnp.split(split_over_tensor(bias, None), 3)
        return [
            x @ split_over_tensor(part, 1) + shift
            for part, shift in zip(kernels, biases, strict=True)
        ]


class Attention(nn.Module):
    """Multi-head self-attention; softmax in float32.

    Attributes:
      heads: attention heads; divides the width.
      fused: whether cuDNN's fused kernel computes it (bfloat16 on a GPU), which never writes the
        attention weights to memory; XLA otherwise.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    fused: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Array, owners: np.ndarray | None = None, only_weights: bool = False
    ) -> Array:
        """Maps [B, T, D] tokens to [B, T, D], or to [B, heads, T, T] attention weights.

        With `owners` [T], a token attends only to those of the same owner.
        """
        batch, tokens, width = x.shape
        head_dim = width // self.heads
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        query, key, value = (
            part.reshape(batch, tokens, self.heads, head_dim)
            for part in QueryKeyValue(name="qkv", **kwargs)(x)
        )
        if self.fused and owners is None and not only_weights:
            x = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        else:
            logits = jnp.einsum("bqhd,bkhd->bhqk", query * head_dim**-0.5, key)
            logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32))
            if owners is not None:
                logits = jnp.where(owners[:, None] == owners, logits, -jnp.inf)
            weights = jax.nn.softmax(logits).astype(self.dtype)
            if only_weights:
                return weights
            x = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        x = x.reshape(batch, tokens, width)
        return nn.Dense(width, name="proj", kernel_init=normal_init, **kwargs)(x)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    hidden_dim: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, T, D] tokens to [B, T, D]."""
        kwargs = dict(kernel_init=normal_init, dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = split_over_tensor(nn.Dense(self.hidden_dim, name="fc1", **kwargs)(x), 2)
        hidden = gelu(hidden)
        return nn.Dense(x.shape[-1], name="fc2", **kwargs)(hidden)


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth and optional LayerScale.

    Attributes:
      heads: attention heads.
      hidden_dim: of the MLP.
      layer_scale: initial gain of each branch's output; 0 leaves LayerScale out.
      fused_attention: see `Attention`.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    hidden_dim: int
    layer_scale: float
    fused_attention: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Array,
        gains: Array | None = None,
        owners: np.ndarray | None = None,
        only_attention: bool = False,
    ) -> Array:
        """Maps [B, T, D] tokens to [B, T, D], or to [B, heads, T, T] attention weights.

        `gains` [2, B, T or 1, 1] multiply the outputs of the two branches; None is 1. `owners`
        [T]: see `Attention`.
        """
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def add(branch: Array, number: int) -> Array:
            if self.layer_scale:
                init = nn.initializers.constant(self.layer_scale)
                shape = (branch.shape[-1],)
                gamma = self.param(f"gamma_{number}", init, shape, self.param_dtype)
                branch = branch * gamma.astype(self.dtype)
            if gains is not None:
                branch = branch * gains[number - 1].astype(self.dtype)
            return split_over_tensor(x + branch, None)

        x = split_over_tensor(x, None)  # whole on each device, or the width would be spread
        attention = Attention(self.heads, self.fused_attention, name="attn", **kwargs)
        normed = layer_norm("norm1", **kwargs)(x)
        if only_attention:
            return attention(normed, only_weights=True)
        x = add(attention(normed, owners), 1)
        mlp = Mlp(self.hidden_dim, name="mlp", **kwargs)
        return add(mlp(layer_norm("norm2", **kwargs)(x)), 2)


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
