"""The transformer block: attention, MLP, stochastic depth (paper, section 4.1)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.kernels.gelu import gelu
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.kernels.tpu.cores import Cores
from ibot_jax.models.layer_norm import layer_norm
from ibot_jax.models.linear import Linear, add_bias, normal_init
from ibot_jax.parallel.tensor import is_split_over_tensor, over_columns, split_over_tensor

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


class QueryKeyValue(nn.Module):
    """One linear layer for queries, keys and values: [..., D] to three times [..., D].

    Its three parts are multiplied apart. The parameters are small; a TPU would copy what one
    product of them all gives, and its gradient, to take it apart and to put it together.

    Attributes:
      dtype: of the computation.
      param_dtype: of the parameters `kernel` [D, 3 D] and `bias` [3 D].
    """

    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Returns the three products, and what is still to be added to them: three biases [D]."""
        width = x.shape[-1]
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", normal_init, (width, 3 * width), self.param_dtype)
        bias = self.param("bias", zeros, (3 * width,), self.param_dtype)
        # Whole first, for each of the three is split into heads.
        kernels = jnp.split(split_over_tensor(kernel.astype(self.dtype), None), 3, axis=1)
        biases = jnp.split(split_over_tensor(bias, None), 3)
        products = [x.astype(self.dtype) @ split_over_tensor(part, 1) for part in kernels]
        return products, [split_over_tensor(part, 0) for part in biases]


class Attention(nn.Module):
    """Multi-head self-attention; softmax in float32.

    Attributes:
      heads: attention heads; divides the width.
      kernels: see `Block`.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    kernels: str
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Array, owners: np.ndarray | None = None, only_weights: bool = False
    ) -> Array:
        """Maps [B, T, D] tokens to [B, T, D], or to [B, heads, T, T] attention weights.

        With `owners` [T], a token attends only to those of the same owner, its neighbours.
        """
        shape, width = x.shape, x.shape[-1]
        head_dim = width // self.heads
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        products, biases = QueryKeyValue(name="qkv", **kwargs)(x.reshape(-1, width))
        products = [product.reshape(shape) for product in products]
        takes = tpu_attention.can_attend(*shape[1:], head_dim)
        if self.kernels == "pallas" and takes and not only_weights:
            attend = functools.partial(tpu_attention.attend, head_dim=head_dim, owners=owners)
            x = over_columns(attend)(*products, biases)
        else:
            parts = map(add_bias, products, biases)
            heads = [part.reshape(*shape[:2], self.heads, head_dim) for part in parts]
            if self.kernels == "cudnn" and owners is None and not only_weights:
                x = jax.nn.dot_product_attention(*heads, implementation="cudnn")
            else:
                query, key, value = heads
                weights = self._weights(query, key, owners)
                if only_weights:
                    return weights
                x = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return Linear(width, name="proj", **kwargs)(x.reshape(-1, width)).reshape(shape)

    def _weights(self, query: Array, key: Array, owners: np.ndarray | None) -> Array:
        logits = jnp.einsum("bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, key)
        logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32))
        if owners is not None:
            logits = jnp.where(owners[:, None] == owners, logits, -jnp.inf)
        return jax.nn.softmax(logits).astype(self.dtype)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    hidden_dim: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens [..., D] to [..., D]."""
        kwargs = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        hidden = split_over_tensor(Linear(self.hidden_dim, name="fc1", **kwargs)(x), x.ndim - 1)
        return Linear(x.shape[-1], name="fc2", **kwargs)(gelu(hidden))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth and optional LayerScale.

    Attributes:
      heads: attention heads.
      hidden_dim: of the MLP.
      layer_scale: initial gain of each branch's output; 0 leaves LayerScale out.
      kernels: what computes it. "cudnn" (bfloat16 on a GPU) and "pallas" (a TPU) never write the
        attention weights to memory; with "pallas" each branch, from norm to residual, is one
        kernel. They leave to "xla" what they do not take.
      cores: of a TPU, for which "pallas" makes a branch one kernel.
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    heads: int
    hidden_dim: int
    layer_scale: float
    kernels: str
    cores: Cores | None
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

        shape = x.shape
        if gains is not None:
            gains = jnp.broadcast_to(gains, (2, *shape[:2], 1)).reshape(2, -1, 1)
        # As one table of tokens: of three dimensions, a TPU's compiler might turn the first two.
        x = x.reshape(-1, shape[-1])
        x = split_over_tensor(x, None)  # whole on each device, or the width would be spread
        if self._adds_attention_by_kernel(shape) and not only_attention:
            params = self._params("norm1", "attn")
            attention_gains = None if gains is None else gains[0].reshape(*shape[:2], 1)
            head_dim = shape[-1] // self.heads
            x = tpu_attention_branch.add_attention(
                x.reshape(shape), params, attention_gains, head_dim, owners, self.cores
            ).reshape(x.shape)
        else:
            attention = Attention(self.heads, self.kernels, name="attn", **kwargs)
            normed = layer_norm("norm1", **kwargs)(x).reshape(shape)
            if only_attention:
                return attention(normed, only_weights=True)
            x = add(attention(normed, owners).reshape(x.shape), 1)
        if self._adds_mlp_by_kernel(shape):
            mlp_gains = None if gains is None else gains[1]
            x = tpu_mlp.add_mlp(x, self._params("norm2", "mlp"), mlp_gains, self.cores)
        else:
            mlp = Mlp(self.hidden_dim, name="mlp", **kwargs)
            x = add(mlp(layer_norm("norm2", **kwargs)(x)), 2)
        return x.reshape(shape)

    def _adds_attention_by_kernel(self, shape: tuple[int, ...]) -> bool:
        head_dim = shape[-1] // self.heads
        return self._adds_by_kernel() and tpu_attention_branch.can_add_attention(
            *shape[1:], head_dim, self.cores
        )

    def _adds_mlp_by_kernel(self, shape: tuple[int, ...]) -> bool:
        return self._adds_by_kernel() and tpu_mlp.can_add_mlp(
            shape[-1], self.hidden_dim, self.cores
        )

    def _adds_by_kernel(self) -> bool:
        """Returns whether whole branches may be kernels: those have no LayerScale."""
        plain = not (self.layer_scale or is_split_over_tensor() or self.is_initializing())
        return plain and self.kernels == "pallas" and self.cores is not None

    def _params(self, norm: str, layers: str) -> dict:
        params = self.variables["params"]
        return {"norm": params[norm], **params[layers]}


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
