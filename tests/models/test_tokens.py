"""Tokens by name and as one sequence, whatever axes lie before them."""

import numpy as np
import pytest

from ibot_jax.models.tokens import Tokens


@pytest.mark.parametrize("batch", [(2,), (2, 3)])
@pytest.mark.parametrize("registers", [0, 2])
def test_a_sequence_has_class_token_registers_and_patches_row_by_row(batch, registers):
    numbers = np.arange(np.prod(batch) * (1 + registers + 6) * 4.0)
    x = numbers.reshape(*batch, 1 + registers + 6, 4)
    tokens = Tokens(
        cls=x[..., 0, :],
        registers=x[..., 1 : 1 + registers, :],
        patches=np.stack([x[..., -6:-3, :], x[..., -3:, :]], axis=-3),  # [..., 2, 3, 4]
    )
    np.testing.assert_array_equal(tokens.sequence(), x)
    other = tokens.with_sequence(x[..., :2] + 1)
    np.testing.assert_array_equal(other.cls, tokens.cls[..., :2] + 1)
    np.testing.assert_array_equal(other.registers, tokens.registers[..., :2] + 1)
    np.testing.assert_array_equal(other.patches, tokens.patches[..., :2] + 1)
