"""GELU against scipy, and how far bfloat16 may be off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ibot_jax.kernels.gelu import gelu


def exact(x):
    return x * norm.cdf(x)


def exact_slope(x):
    return norm.cdf(x) + x * norm.pdf(x)


@pytest.mark.parametrize(("function", "oracle"), [(gelu, exact), (jax.grad(gelu), exact_slope)])
def test_float32_is_exact(function, oracle):
    x = np.linspace(-8, 8, 2001, dtype=np.float32)
    np.testing.assert_allclose(jax.vmap(function)(x), oracle(x.astype(float)), atol=2e-6)


@pytest.mark.parametrize(
    ("function", "oracle", "before_rounding"),
    [(gelu, exact, 3e-5), (jax.grad(gelu), exact_slope, 1.5e-4)],
)
def test_bfloat16_adds_little_to_its_rounding(function, oracle, before_rounding):
    """Every bfloat16 from -20 to 20: the rounding, up to 2^-9 of the value, and little more."""
    x = jnp.arange(2**16, dtype=jnp.uint16).view(jnp.bfloat16)
    x = x[jnp.abs(x) <= 20]
    outputs = jax.vmap(function)(x)
    assert outputs.dtype == jnp.bfloat16
    expected = oracle(np.asarray(x, float))
    error = np.abs(np.asarray(outputs, float) - expected)
    assert (error <= 2**-8 * np.abs(expected) + before_rounding).all()
    assert error.max() > 1e-3  # of large values: bfloat16 rounds


def test_bfloat16_is_the_identity_or_zero_far_out():
    x = jnp.array([6.0, 50.0, 1e4, 3e38], jnp.bfloat16)
    np.testing.assert_array_equal(gelu(x), x)
    np.testing.assert_array_equal(jnp.abs(gelu(-x[1:])), 0)
    np.testing.assert_array_equal(jax.vmap(jax.grad(gelu))(x), 1)
