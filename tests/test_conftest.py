"""What the tests share: one does not change the numbers of the next."""

import jax
import jax.numpy as jnp


def test_a_command_may_set_double_precision():
    jax.config.update("jax_enable_x64", True)
    assert jnp.ones(()).dtype == "float64"


def test_and_the_next_test_is_in_float32():
    assert jnp.ones(()).dtype == "float32"
