"""Rotary positions, against what they are for, sums written out, and the recordings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels.rotary import rotate
from ibot_jax.models.rope import Rope, draw_noise

ROPE = Rope(16)


def angle(rope, grid, row, column, pair):
    """Of a patch's pair of columns, of which the first half go by rows."""
    number = rope.head_dim // 4
    along, k = divmod(pair, number)
    length = {"separate": grid[along], "min": min(grid), "max": max(grid)}[rope.coordinates]
    coordinate = 2 * ((row, column)[along] + 0.5) / length - 1
    if rope.periods:
        shortest, longest = rope.periods
        period = shortest * (longest / shortest) ** (k / (number - 1))
    else:
        period = rope.base ** (k / number)
    return 2 * np.pi * coordinate / period


@pytest.mark.parametrize(
    "rope",
    [ROPE, Rope(8, 50.0, coordinates="min"), Rope(16, periods=(0.5, 90.0), coordinates="max")],
    ids=str,
)
def test_angles_are_those_of_rows_and_columns(rope):
    cos, sin = rope.table((2, 3), jnp.float32)
    pairs = rope.head_dim // 2
    expected = np.array(
        [
            [angle(rope, (2, 3), row, column, pair % pairs) for pair in range(rope.head_dim)]
            for row in range(2)
            for column in range(3)
        ]
    )
    np.testing.assert_allclose(cos, np.cos(expected), atol=2e-6)
    np.testing.assert_allclose(sin, np.sin(expected), atol=2e-6)


def test_a_rotation_turns_pairs_and_leaves_the_tokens_before():
    table = ROPE.table((2, 2), jnp.float32)
    x = jax.random.normal(jax.random.key(0), (3, 6, 2, 16))
    turned = rotate(x, table)
    np.testing.assert_array_equal(turned[:, :2], x[:, :2])
    as_complex = np.asarray(x[:, 2:, :, :8] + 1j * x[:, 2:, :, 8:])
    by_hand = as_complex * (np.asarray(table[0]) + 1j * np.asarray(table[1]))[:, None, :8]
    np.testing.assert_allclose(turned[:, 2:, :, :8], by_hand.real, atol=1e-6)
    np.testing.assert_allclose(turned[:, 2:, :, 8:], by_hand.imag, atol=1e-6)


def test_products_depend_on_where_patches_lie_to_each_other_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    table = ROPE.table((4, 4), jnp.float32)
    tokens = (jnp.broadcast_to(x, (1, 16, 1, 16)) for x in (query, key))
    queries, keys = (rotate(x, table)[0, :, 0] for x in tokens)
    products = np.asarray(queries @ keys.T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(products[0, 0, 1, 2], products[2, 1, 3, 3], atol=1e-5)
    assert abs(products[0, 0, 1, 2] - products[0, 0, 2, 1]) > 1e-3


def test_noise_is_within_its_bounds_and_moves_coordinates():
    noise = np.asarray(draw_noise(jax.random.key(0), (4000,), shift=0.3, jitter=1.5, rescale=2.0))
    shifts, factors = noise[:, 0], noise[:, 1]
    assert np.abs(shifts).max() <= 0.3 < np.abs(shifts).max() + 0.01
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=0.02)
    logs = np.log(factors)
    assert np.abs(logs).max() <= np.log(3.0) + 1e-6
    assert np.abs(logs[:, 0] - logs[:, 1]).max() <= 2 * np.log(1.5) + 1e-6
    assert np.corrcoef(logs.T)[0, 1] > 0.5  # rows and columns share the rescaling
    nothing = draw_noise(jax.random.key(0), (2,), shift=0.0, jitter=1.0, rescale=1.0)
    np.testing.assert_array_equal(nothing, [[[0, 0], [1, 1]]] * 2)
    plain, still, moved = (
        ROPE.table((2, 3), jnp.float32, x) for x in (None, nothing[0], jnp.asarray(noise[0]))
    )
    np.testing.assert_allclose(still, plain, atol=1e-6)
    assert np.abs(moved - plain).max() > 0.01


@pytest.mark.parametrize(
    ("name", "rope"),
    [("dinov3_vit", ROPE), ("dinov3_vit_swiglu_untied", Rope(16, coordinates="max"))],
)
def test_tables_of_dinov3(name, rope, reference):
    arrays = np.load(reference(f"{name}.npz"))
    sizes = [key.removesuffix("/sin") for key in arrays.files if key.endswith("/sin")]
    assert len(sizes) >= 2
    for size in sizes:
        grid = tuple(int(side) // 16 for side in size.split("x"))
        cos, sin = rope.table(grid, jnp.float32)
        np.testing.assert_allclose(cos, arrays[f"{size}/cos"], atol=3e-6)
        np.testing.assert_allclose(sin, arrays[f"{size}/sin"], atol=3e-6)


def test_noise_of_dinov3(reference):
    arrays = np.load(reference("stochastic_depth_and_rope.npz"))
    factors = np.exp(arrays["rope/log_jitter"] + arrays["rope/log_rescale"])
    noise = jnp.asarray(np.stack([arrays["rope/shift"], factors]), jnp.float32)
    cos, sin = ROPE.table((3, 5), jnp.float32, noise)
    np.testing.assert_allclose(cos, arrays["rope/cos"], atol=3e-6)
    np.testing.assert_allclose(sin, arrays["rope/sin"], atol=3e-6)


def test_bfloat16_rounds_after_each_operation():
    """By NumPy's operations in ml_dtypes' bfloat16, one after the other."""
    bfloat16 = jnp.bfloat16
    table = ROPE.table((5, 3), bfloat16)
    assert table.dtype == bfloat16
    whole = np.float32(5)
    x = (np.arange(5, dtype=np.float32) + np.float32(0.5)).astype(bfloat16)
    x = (x.astype(np.float32) / whole).astype(bfloat16)
    x = (np.float32(2) * x.astype(np.float32)).astype(bfloat16)
    x = (x.astype(np.float32) - 1).astype(bfloat16)
    x = (np.float32(2 * np.pi) * x.astype(np.float32)).astype(bfloat16).astype(np.float32)
    periods = np.array([1, 100**0.25, 10, 100**0.75], np.float32).astype(bfloat16)
    angles = (x[:, None] / periods.astype(np.float32)).astype(bfloat16)
    expected = np.cos(angles.astype(np.float32)).astype(bfloat16).astype(np.float32)
    cosines = np.asarray(table[0], np.float32).reshape(5, 3, 16)
    np.testing.assert_array_equal(cosines[:, 0, :4], expected)
