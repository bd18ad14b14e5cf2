"""LayerNorm, as all of the models have it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-6  # the original's, of all norms


def layer_norm(
    x: jax.Array, params: dict[str, jax.Array], epsilon: float, dtype: jnp.dtype
) -> jax.Array:
    """Standardises [..., D] over D, times "scale" [D] plus "bias" [D], in `dtype`."""
    module = layer_norm_module(epsilon, dtype, params["scale"].dtype, parent=None)
    return module.apply({"params": params}, x)


def layer_norm_module(
    epsilon: float, dtype: jnp.dtype, param_dtype: jnp.dtype, **kwargs
) -> nn.LayerNorm:
    """LayerNorm with statistics in float32 (float64 for float64).

    The variance is formed in two passes, or for bfloat16 in one, from sums of x and x^2: of numbers
    of 8 bits, which float32 adds up well, and which lie in memory for the next layer's product.
    `kwargs` are Linen's: name, parent.
    """
    return nn.LayerNorm(
        epsilon=epsilon,
        use_fast_variance=dtype == jnp.bfloat16,
        dtype=dtype,
        param_dtype=param_dtype,
        **kwargs,
    )
