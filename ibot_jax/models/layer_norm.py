"""Norms of tokens, as all of the models have them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.layer_norm import NORMS

Array = jax.Array


class NormParams(nn.Module):
    """The parameters of a norm, for a kernel that computes more than the norm.

    Attributes:
      param_dtype: of the parameters.
      kind: "layer", LayerNorm, or "rms", RMSNorm.
    """

    param_dtype: jnp.dtype
    kind: str = "layer"

    @nn.compact
    def __call__(self, width: int) -> dict[str, Array]:
        """Returns {"scale": [width], "bias": [width]}, of RMSNorm without the bias."""
        return _declare(self, width)


class Norm(nn.Module):
    """A norm of tokens [..., D].

    Attributes:
      kind: "layer", LayerNorm, or "rms", RMSNorm.
      epsilon: added to the variance.
      dtype: of the result.
      param_dtype: of the parameters.
    """

    kind: str
    epsilon: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return NORMS[self.kind](x, _declare(self, x.shape[-1]), self.epsilon, self.dtype)


def _declare(norm: NormParams | Norm, width: int) -> dict[str, Array]:
    params = {"scale": norm.param("scale", nn.initializers.ones, (width,), norm.param_dtype)}
    if norm.kind == "layer":
        params["bias"] = norm.param("bias", nn.initializers.zeros, (width,), norm.param_dtype)
    return params
