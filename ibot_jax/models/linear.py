"""Linear layers, as all of the model's have them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.kernels.linear import linear

Array = jax.Array

# What timm and the original call trunc_normal_(std=0.02) cuts at 100 standard deviations.
normal_init = nn.initializers.normal(0.02)


class LinearParams(nn.Module):
    """The parameters of a linear layer, for a kernel that computes more than the layer.

    Attributes:
      features: outputs.
      param_dtype: of the parameters.
      use_bias: whether there is one.
    """

    features: int
    param_dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: int) -> dict[str, Array]:
        """Returns {"kernel": [inputs, features], "bias": [features]}."""
        return _declare(self, inputs)


class Linear(nn.Module):
    """A linear layer, [..., inputs] to [..., features], whose bias has gradients in float32.

    Attributes:
      features: outputs.
      dtype: of the computation.
      param_dtype: of the parameters `kernel` [inputs, features] and `bias` [features].
      use_bias: whether there is one.
    """

    features: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return linear(x, _declare(self, x.shape[-1]), self.dtype)


def _declare(layer: LinearParams | Linear, inputs: int) -> dict[str, Array]:
    shape = (inputs, layer.features)
    params = {"kernel": layer.param("kernel", normal_init, shape, layer.param_dtype)}
    if layer.use_bias:
        params["bias"] = layer.param("bias", nn.initializers.zeros, shape[1:], layer.param_dtype)
    return params
