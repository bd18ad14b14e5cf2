"""Linear layers, as all of the model's have them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

# What timm and the original call trunc_normal_(std=0.02) cuts at 100 standard deviations.
normal_init = nn.initializers.normal(0.02)


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
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", normal_init, shape, self.param_dtype)
        product = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if not self.use_bias:
            return product
        bias = self.param("bias", nn.initializers.zeros, shape[1:], self.param_dtype)
        return add_bias(product, bias)


def add_bias(x: Array, bias: Array) -> Array:
    """Adds a bias [D] to [..., D], of the dtype of the latter.

    It is cast where it lies beside every row: the gradient is then cast before it is summed over
    the rows, and not after. In bfloat16 that is more exact, and on a TPU twice as fast.
    """
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)
