"""Resampling of learned positions, against sums written out, PyTorch and the recordings."""

import math

import jax
import numpy as np
import pytest

from ibot_jax.models.positions import interpolation_matrix, resample_positions

ENDS = [(14, 6), (14, 24), (4, 2), (3, 3), (5, 7)]


def cubic(d, a):
    d = abs(d)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@pytest.mark.parametrize("offset", [0.1, 0.0])
@pytest.mark.parametrize(("trained", "wanted"), ENDS)
def test_interpolation_is_cubic_convolution_with_repeated_borders(trained, wanted, offset):
    expected = np.zeros((wanted, trained))
    for row in range(wanted):
        position = (row + 0.5) / ((wanted + offset) / trained) - 0.5
        for column in range(-4, trained + 4):
            weight = cubic(position - column, -0.75)
            expected[row, min(max(column, 0), trained - 1)] += weight
    np.testing.assert_allclose(interpolation_matrix(trained, wanted, offset), expected, atol=1e-12)


@pytest.mark.parametrize(("trained", "wanted"), ENDS)
def test_antialiasing_widens_the_kernel_as_much_as_the_grid_shrinks(trained, wanted):
    found = interpolation_matrix(trained, wanted, 0.0, antialias=True)
    wide = max(trained / wanted, 1)
    for row in range(wanted):
        weights = [
            cubic(((row + 0.5) * trained / wanted - 0.5 - column) / wide, -0.5)
            for column in range(trained)
        ]
        np.testing.assert_allclose(found[row], np.array(weights) / math.fsum(weights), atol=1e-12)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("wanted", [(3, 9), (7, 2), (5, 6)], ids=str)
def test_it_is_pytorchs_interpolation(wanted, antialias):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(1, 1 + 30, 4))
    grid = torch.as_tensor(positions[:, 1:].reshape(1, 5, 6, 4)).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(
        grid, size=wanted, mode="bicubic", antialias=antialias
    ).permute(0, 2, 3, 1)
    with jax.enable_x64(True):
        ours = resample_positions(jax.numpy.asarray(positions), (5, 6), wanted, 0.0, antialias)
    np.testing.assert_allclose(ours[0, 1:], theirs.reshape(-1, 4), atol=1e-12)


@pytest.mark.parametrize("name", ["dinov2_vit_registers", "dinov2_vit_swiglu"])
def test_positions_of_dinov2_in_all_four_ways(name, reference):
    arrays = np.load(reference(f"{name}.npz"))
    trained = arrays["params/pos_embed"]
    compared = 0
    for key in arrays.files:
        if not key.endswith("/positions"):
            continue
        size, how, _ = key.split("/")
        grid = tuple(int(side) // 14 for side in size.split("x"))
        offset, antialias = (word.partition("=")[2] for word in how.split(","))
        found = resample_positions(trained, (5, 5), grid, float(offset), antialias == "True")
        np.testing.assert_allclose(found[0], arrays[key], atol=1e-6)
        compared += 1
    assert compared >= 8
