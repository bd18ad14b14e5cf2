"""LayerNorm, as all of the model's have it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


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
