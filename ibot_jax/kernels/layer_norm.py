"""The norms of tokens, as all of the models have them."""

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


def rms_norm(
    x: jax.Array, params: dict[str, jax.Array], epsilon: float, dtype: jnp.dtype
) -> jax.Array:
    """Divides [..., D] by the root of its mean square over D, times "scale" [D], in `dtype`.

    The mean is formed in float32 (float64 for float64).
    """
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.square(exact).mean(axis=-1, keepdims=True)
    return (exact * jax.lax.rsqrt(mean + epsilon) * params["scale"]).astype(dtype)


NORMS = {"layer": layer_norm, "rms": rms_norm}


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
