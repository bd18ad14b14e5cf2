"""LayerNorm, as all of the model's have it."""

import flax.linen as nn
import jax.numpy as jnp

from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON


def layer_norm(name: str | None, dtype: jnp.dtype, param_dtype: jnp.dtype) -> nn.LayerNorm:
    """LayerNorm with the original's epsilon, statistics in float32 (float64 for float64).

    The variance is formed in two passes, or for bfloat16 in one, from sums of x and x^2: of numbers
    of 8 bits, which float32 adds up well, and which lie in memory for the next layer's product.
    """
    return nn.LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        use_fast_variance=dtype == jnp.bfloat16,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )
