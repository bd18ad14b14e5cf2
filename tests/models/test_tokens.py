"""Tokens by name and as one sequence, whatever axes lie before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.models.tokens import Tokens


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("registers", [0, 4])
def test_a_sequence_has_class_token_registers_and_patches_row_by_row(batch, registers):
    x = np.random.default_rng(0).normal(size=(*batch, 1 + registers + 2 * 3, 5))
    tokens = Tokens(x, (2, 3), registers)
    np.testing.assert_array_equal(tokens.cls, x[..., 0, :])
    np.testing.assert_array_equal(tokens.registers, x[..., 1 : 1 + registers, :])
    assert tokens.patches.shape == (*batch, 2, 3, 5)
    np.testing.assert_array_equal(tokens.patches[..., 1, 2, :], x[..., -1, :])
    np.testing.assert_array_equal(tokens.patches[..., 0, 1, :], x[..., 2 + registers, :])
    other = jax.tree.map(lambda x: x + 1, tokens)
    np.testing.assert_array_equal(other.patches, tokens.patches + 1)


def test_values_of_patches_stand_where_their_tokens_do():
    tokens = Tokens(np.arange(2 * 9.0).reshape(2, 9, 1), (2, 3), num_registers=2)
    masks = np.array([[[1, 0, 0], [0, 0, 1]], [[0, 1, 1], [0, 0, 0]]], bool)
    chosen = tokens.sequence[np.asarray(tokens.of_patches(masks))]
    np.testing.assert_array_equal(chosen, tokens.patches[masks])
    assert chosen[:, 0].tolist() == [3, 8, 9 + 4, 9 + 5]


def test_registers_can_be_left_out():
    sequence = jnp.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    tokens = Tokens(sequence, (2, 2), num_registers=2)
    others = tokens.without_registers()
    np.testing.assert_array_equal(others.sequence, sequence[:, [0, 3, 4, 5, 6]])
    assert others.num_registers == 0 and others.grid == (2, 2)
    np.testing.assert_array_equal(others.patches, tokens.patches)
    assert others.without_registers() is others
