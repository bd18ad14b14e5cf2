"""The Swin Transformer against its description; tools/test_replay has the original's outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.models.swin import Swin, differences, from_windows, shift_mask, to_windows


def tiny(**overrides):
    """A model for 24 x 24 pixels: windows of 3 on grids of 6 and 3, output tokens of 8 pixels."""
    kwargs = dict(patch_size=4, width=4, stage_depths=(2, 1), stage_heads=(1, 2), window=3)
    return Swin(**kwargs | {"mlp_ratio": 2.0, "grid": (6, 6)} | overrides)


def images(height, width, batch=2):
    return np.random.default_rng(1).normal(size=(batch, height, width, 3)).astype(np.float32)


def run(model, variables, *args, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))(variables, *args)


@pytest.fixture(scope="module")
def variables():
    """Parameters far from their start, so that every one of them matters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(tiny().init, jax.random.key(0), images(24, 24))
    return jax.tree.map(lambda x: rng.normal(0.2, 0.4, x.shape).astype(x.dtype), shapes)


def test_windows_are_squares_of_neighbours():
    x = np.arange(24).reshape(1, 4, 6, 1)
    windows = to_windows(x, 2)
    assert windows.shape == (1, 6, 4, 1)
    np.testing.assert_array_equal(windows[0, 1, :, 0], [2, 3, 8, 9])
    np.testing.assert_array_equal(from_windows(windows, (4, 6)), x)


def test_differences_name_the_row_of_the_table():
    rows = differences(3) @ np.arange(5)
    np.testing.assert_array_equal(rows, [[2, 1, 0], [3, 2, 1], [4, 3, 2]])


def test_rolled_windows_see_only_what_were_neighbours():
    """By brute force: two tokens of a window are neighbours if no edge was rolled between them."""
    rows, columns, window, shift = 6, 9, 3, 1
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    rolled = np.roll(place, (-shift, -shift), axis=(0, 1))
    windows = to_windows(rolled[None], window)[0]
    apart = np.abs(windows[:, :, None] - windows[:, None]).max(axis=-1) >= window
    np.testing.assert_array_equal(shift_mask((rows, columns), window, shift), -100.0 * apart)


def test_windows_are_no_larger_than_a_stages_grid():
    model = tiny(stage_depths=(1, 1, 1, 1), stage_heads=(1, 1, 1, 1), grid=(12, 16))
    params = jax.eval_shape(model.init, jax.random.key(0), images(48, 64))["params"]
    tables = [
        params[f"stages_{stage}"]["blocks_0"]["attn"]["relative_bias"].shape for stage in range(4)
    ]
    assert tables == [(25, 1), (25, 1), (25, 1), (9, 1)]


@pytest.mark.parametrize(("height", "width"), [(24, 24), (18, 26)])
def test_tokens_of_any_size(variables, height, width):
    tokens = run(tiny(), variables, images(height, width))
    grid = -(-(height // 4) // 2), -(-(width // 4) // 2)
    assert tokens.patches.shape == (2, *grid, 8)
    assert tokens.registers.shape == (2, 0, 8)
    np.testing.assert_allclose(tokens.cls, tokens.patches.mean(axis=(1, 2)), atol=1e-6)


def test_a_masked_cell_hides_its_pixels_and_no_others(variables):
    pixels = images(24, 24, batch=1)
    mask = np.zeros((1, 3, 3), bool)
    mask[0, 0, 1] = True  # rows 0 to 7, columns 8 to 15
    inside, outside = pixels.copy(), pixels.copy()
    inside[:, :8, 8:16] += 1
    outside[:, 8, 15] += 1
    whole, same, other = (run(tiny(), variables, x, mask) for x in (pixels, inside, outside))
    np.testing.assert_array_equal(whole.patches, same.patches)
    assert np.abs(whole.patches - other.patches).max() > 1e-3


def test_the_mask_token_exists_without_a_mask():
    params = jax.jit(tiny().init)(jax.random.key(0), images(24, 24))["params"]
    np.testing.assert_array_equal(params["mask_token"], np.zeros((1, 4)))


def test_attention_says_what_each_patch_is_given(variables):
    """One stage, whose last block shifts its windows: by brute force from the weights."""
    params = {k: v for k, v in variables["params"].items() if k != "stages_1"}
    params["stages_0"] = {k: v for k, v in params["stages_0"].items() if k != "merge"}
    params["norm"] = params["patch_norm"]
    model = tiny(stage_depths=(2,), stage_heads=(1,))
    attention = run(model, {"params": params}, images(24, 24), method="attention")
    np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, atol=1e-6)
    expected = np.zeros((2, 1, 6, 6))
    for window in range(4):
        for key in range(9):
            row, column = 3 * (window // 2) + key // 3, 3 * (window % 2) + key % 3
            given = attention.weights[:, window, :, :, key].sum(axis=-1) / 36
            expected[:, :, (row + 1) % 6, (column + 1) % 6] = given
    np.testing.assert_allclose(attention.cls, expected, atol=1e-6)
    # Keys lie where their tokens do, however windows are shifted.
    layers = functools.partial(run, model, {"params": params}, images(24, 24), method="layers")
    (given,) = layers(wanted=(0,), normalized=False)
    x = np.asarray(given.patches, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm_eps)
    block = params["stages_0"]["blocks_1"]
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    qkv = {name: np.split(value, 3, axis=-1)[1] for name, value in block["attn"]["qkv"].items()}
    np.testing.assert_allclose(attention.keys, x @ qkv["kernel"] + qkv["bias"], atol=1e-5)


def test_gains_multiply_the_branches_of_each_block(variables):
    pixels = images(24, 24, batch=3)
    full = run(tiny(), variables, pixels)
    gains = np.ones((3, 3, 2), np.float32)
    gains[1, 1, 0] = 0  # of the second image, block 1, attention
    mixed = run(tiny(), variables, pixels, None, gains)
    np.testing.assert_allclose(mixed.patches[::2], full.patches[::2], atol=1e-5)
    without = jax.tree.map(np.copy, variables)
    projection = without["params"]["stages_0"]["blocks_1"]["attn"]["proj"]
    projection |= jax.tree.map(np.zeros_like, projection)
    expected = run(tiny(), without, pixels)
    np.testing.assert_allclose(mixed.patches[1], expected.patches[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_rematerialisation_changes_neither_tokens_nor_parameters(variables, remat):
    pixels, gains = images(24, 24), np.random.default_rng(2).random((2, 3, 2))
    plain, other = tiny(), tiny(remat=remat)
    starts = [jax.eval_shape(m.init, jax.random.key(0), pixels) for m in (plain, other)]
    assert starts[0] == starts[1]

    def gradient(model):
        def loss(variables):
            return (model.apply(variables, pixels, None, gains).patches ** 2).sum()

        return jax.jit(jax.grad(loss))(variables)

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-3), gradient(other), gradient(plain)
    )


def test_bfloat16_computes_in_bfloat16_from_float32_parameters(variables):
    tokens = run(tiny(dtype=jnp.bfloat16), variables, images(24, 24))
    assert tokens.patches.dtype == tokens.cls.dtype == jnp.bfloat16
    expected = run(tiny(), variables, images(24, 24)).patches
    difference = np.abs(tokens.patches.astype(jnp.float32) - expected)
    assert difference.mean() < 0.03 * np.abs(expected).mean()
