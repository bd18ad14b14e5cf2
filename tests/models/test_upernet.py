"""UperNet computes what NumPy and SciPy do layer by layer, from maps of one grid or of four."""

import flax.traverse_util
import jax
import numpy as np
import pytest
from scipy.ndimage import zoom
from scipy.special import erf

from ibot_jax.models.upernet import POOLED, UperNet, adaptive_mean

WIDTH, CLASSES = 6, 3
RNG = np.random.default_rng(0)


def randomized(tree):
    """Returns a tree of arrays of the same shapes, variances above 0."""
    flat = flax.traverse_util.flatten_dict(tree)
    made = {
        path: RNG.uniform(0.5, 1.5, x.shape) if path[-1] == "var" else RNG.normal(size=x.shape)
        for path, x in flat.items()
    }
    return flax.traverse_util.unflatten_dict(made)


def enlarged(x, size):
    factors = (1, size[0] / x.shape[1], size[1] / x.shape[2], 1)
    return zoom(x, factors, order=1, mode="nearest", grid_mode=True)


def conv(x, kernel):
    margin = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows, columns = x.shape[1:3]
    return sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def norm(x, params, stats):
    scaled = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return scaled * params["scale"] + params["bias"]


def block(x, name, params, stats):
    x = conv(x, params[name]["Conv_0"]["kernel"])
    return np.maximum(norm(x, params[name]["BatchNorm_0"], stats[name]["BatchNorm_0"]), 0)


def pooled(x, cells):
    def box(side, i):
        return slice(int(np.floor(i * side / cells)), int(np.ceil((i + 1) * side / cells)))

    found = np.empty((len(x), cells, cells, x.shape[-1]))
    for i, j in np.ndindex(cells, cells):
        found[:, i, j] = x[:, box(x.shape[1], i), box(x.shape[2], j)].mean(axis=(1, 2))
    return found


def reference(maps, params, stats):
    """Returns the logits of maps of four scales, and the auxiliary ones."""
    of = lambda x, name: block(x, name, params, stats)  # noqa: E731
    size = maps[3].shape[1:3]
    joined = [maps[3], *(enlarged(of(pooled(maps[3], n), f"pooled_{n}"), size) for n in POOLED)]
    sums = [of(x, f"lateral_{n}") for n, x in enumerate(maps[:3])]
    sums.append(of(np.concatenate(joined, axis=-1), "joined"))
    for n in (2, 1, 0):
        sums[n] = sums[n] + enlarged(sums[n + 1], sums[n].shape[1:3])
    out = [*(of(x, f"smoothed_{n}") for n, x in enumerate(sums[:3])), sums[3]]
    fused = np.concatenate([enlarged(x, out[0].shape[1:3]) for x in out], axis=-1)
    return tuple(
        of(x, name) @ params[classes]["kernel"] + params[classes]["bias"]
        for x, name, classes in (
            (fused, "fused", "classes"),
            (maps[2], "auxiliary", "auxiliary_classes"),
        )
    )


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def made(maps, scales, normalized=(False,) * 4):
    net = UperNet(CLASSES, WIDTH, scales, normalized, np.float64, np.float64)
    start = jax.eval_shape(net.init, jax.random.key(0), maps)
    return net, randomized(start["params"]), randomized(start["batch_stats"])


def test_maps_of_four_scales_the_first_of_which_is_normalised_here():
    widths, sides = (2, 3, 4, 5), (24, 12, 6, 3)
    maps = [RNG.normal(size=(2, n, 2 * n, width)) for n, width in zip(sides, widths, strict=True)]
    net, params, stats = made(maps, None, (True, False, False, False))
    centered = maps[0] - maps[0].mean(-1, keepdims=True)
    first = centered / np.sqrt(maps[0].var(-1, keepdims=True) + 1e-6)
    first = first * params["norm_0"]["scale"] + params["norm_0"]["bias"]
    found = jax.jit(net.apply)({"params": params, "batch_stats": stats}, maps)
    for ours, want in zip(found, reference([first, *maps[1:]], params, stats), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-9, atol=1e-9)


def test_maps_of_one_grid_become_four_scales():
    """By transposed convolutions, each of whose cells becomes 2 x 2, and by the largest of four."""
    maps = [RNG.normal(size=(1, 4, 6, 5)) for _ in range(4)]
    net, params, stats = made(maps, (4, 2, 1, 0.5))

    def twice(x, layer):
        kernel = layer["kernel"][::-1, ::-1]
        tiles = np.einsum("bhwd,yxde->bhywxe", x, kernel)
        batch, rows, columns, _ = x.shape
        return tiles.reshape(batch, 2 * rows, 2 * columns, -1) + layer["bias"]

    first, second = params["rescaled_0"], params["rescaled_1"]
    hidden = norm(
        twice(maps[0], first["ConvTranspose_0"]),
        first["BatchNorm_0"],
        stats["rescaled_0"]["BatchNorm_0"],
    )
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    scaled = [
        twice(hidden, first["ConvTranspose_1"]),
        twice(maps[1], second["ConvTranspose_0"]),
        maps[2],
        maps[3].reshape(1, 2, 2, 3, 2, 5).max(axis=(2, 4)),
    ]
    assert [x.shape[1:3] for x in scaled] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    found = jax.jit(net.apply)({"params": params, "batch_stats": stats}, maps)
    for ours, want in zip(found, reference(scaled, params, stats), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-9, atol=1e-9)


def test_training_normalises_by_the_batch_and_remembers_it():
    maps = [RNG.normal(2, 3, size=(4, n, n, 2)) for n in (8, 4, 2, 1)]
    net, params, stats = made(maps, None)
    variables = {"params": params, "batch_stats": stats}

    @jax.jit
    def train(key):
        rngs = {"dropout": key}
        return net.apply(variables, maps, train=True, rngs=rngs, mutable=["batch_stats"])

    (found, _), seen = train(jax.random.key(0))
    (other, _), _ = train(jax.random.key(1))
    assert np.abs(found - other).max() > 0  # features are left out
    before = conv(maps[0], params["lateral_0"]["Conv_0"]["kernel"]).mean(axis=(0, 1, 2))
    name = ("lateral_0", "BatchNorm_0", "mean")
    old, new = (tree[name[0]][name[1]][name[2]] for tree in (stats, seen["batch_stats"]))
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * before, rtol=1e-9)


@pytest.mark.parametrize("cells", POOLED)
def test_means_are_over_boxes_that_cover_the_map(cells):
    x = RNG.normal(size=(2, 16, 5, 3))
    np.testing.assert_allclose(adaptive_mean(x, cells), pooled(x, cells), rtol=1e-12)
