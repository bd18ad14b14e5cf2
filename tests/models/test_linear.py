"""Linear layers against sums in float64, and a block's norm against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels.layer_norm import layer_norm_module
from ibot_jax.models.linear import Linear


def test_a_layer_multiplies_and_adds():
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.normal(size=shape) for shape in ((2, 5, 3), (3, 4), (4,)))
    layer = Linear(4, jnp.float32, jnp.float32)
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(found, x @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """In bfloat16 a sum of ones would stop at 256."""
    layer = Linear(2, jnp.bfloat16, jnp.float32)
    x = jnp.ones((30, 100, 3), jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)

    def total(params):
        return layer.apply(params, x).astype(jnp.float32).sum()

    bias = jax.jit(jax.grad(total))(params)["params"]["bias"]
    assert bias.dtype == jnp.float32
    np.testing.assert_array_equal(bias, 3000)


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("mean", [0.0, 3.0, -20.0])
def test_the_norm_is_that_of_the_definition(dtype, error, mean):
    """Whose mean may be far from zero: many standard deviations, in bfloat16's one pass, too."""
    x = mean + jax.random.normal(jax.random.key(0), (64, 384))
    x = x.astype(dtype)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 384))
    norm = layer_norm_module(1e-6, dtype, jnp.float32)
    found = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
    assert found.dtype == dtype
    exact = np.asarray(x, np.float64)
    variance = exact.var(axis=-1, keepdims=True)
    expected = (exact - exact.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    expected = expected * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, error, error)
