"""LayerNorm, as all of the model's have it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON, layer_norm_module

Array = jax.Array


def layer_norm(
    name: str | None,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    norm_eps: float = LAYER_NORM_EPSILON,
) -> nn.LayerNorm:
    """LayerNorm, see `kernels.layer_norm`."""
    return layer_norm_module(norm_eps, dtype, param_dtype, name=name)


class NormParams(nn.Module):
    """The parameters of LayerNorm, for a kernel that computes more than the norm.

    Attributes:
      param_dtype: of the parameters.
    """

    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, width: int) -> dict[str, Array]:
        """Returns {"scale": [width], "bias": [width]}."""
        return {
            "scale": self.param("scale", nn.initializers.ones, (width,), self.param_dtype),
            "bias": self.param("bias", nn.initializers.zeros, (width,), self.param_dtype),
        }
