"""DPT's head computes what SciPy and NumPy do layer by layer, from maps of one grid or of four."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate, zoom
from scipy.special import erf

from ibot_jax.evaluate.probes.dpt_head import DPTHead, twice
from ibot_jax.models.tokens import Tokens

RNG = np.random.default_rng(0)
NEAREST = 0.5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def conv(x, layer, stride=1):
    """Convolves [H, W, D] with a margin of zeros."""
    kernel = layer["kernel"]
    found = np.stack(
        [
            sum(
                correlate(x[..., i], kernel[..., i, o], mode="constant") for i in range(x.shape[-1])
            )
            for o in range(kernel.shape[-1])
        ],
        axis=-1,
    )
    return (found + layer.get("bias", 0))[::stride, ::stride]


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def relu(x):
    return np.maximum(x, 0)


def residual(x, layer):
    return x + conv(relu(conv(relu(x), layer["first"])), layer["second"])


def doubled(x):
    """Enlarges [H, W, D] so that corners stay corners."""
    return zoom(x, (2, 2, 1), order=1, mode="nearest")


def fitted(x, size):
    """Resizes [H, W, D]; pixels are squares whose middles count."""
    factors = (size[0] / x.shape[0], size[1] / x.shape[1], 1)
    return zoom(x, factors, order=1, mode="nearest", grid_mode=True)


def reference(maps, params):
    """Returns the depths of an image's maps of four scales, the finest first."""
    sides = [conv(x, params[f"lateral_{n}"]) for n, x in enumerate(maps)]
    x = sides[3]
    for n in (3, 2, 1, 0):
        if n < 3:
            x = x + residual(fitted(sides[n], x.shape[:2]), params[f"skipped_{n}"])
        x = dense(doubled(residual(x, params[f"fused_{n}"])), params[f"projected_{n}"])
    x = doubled(conv(relu(conv(x, params["joined"])), params["halved"]))
    x = dense(relu(conv(x, params["last"])), params["depth"])
    return relu(x[..., 0]) + NEAREST


def random_like(tree):
    flat = flax.traverse_util.flatten_dict(tree)
    return flax.traverse_util.unflatten_dict(
        {path: RNG.normal(0, 0.5, x.shape) for path, x in flat.items()}
    )


def tokens(grid, width):
    """Returns random tokens of one image, with a register, which is not looked at."""
    sequence = RNG.normal(size=(1, 2 + grid[0] * grid[1], width))
    return Tokens(jnp.asarray(sequence), grid, num_registers=1)


def test_layers_of_one_grid_become_maps_of_four_scales():
    """Of an odd grid, whose half is enlarged to more than there are: skipped maps are fitted."""
    layers = tuple(tokens((3, 2), 8) for _ in range(4))
    head = DPTHead(NEAREST, width=4)
    params = random_like(jax.eval_shape(head.start, jax.random.key(0), layers))
    maps = []
    for number, layer in enumerate(layers):
        own = params[f"map_{number}"]
        patches = np.asarray(layer.sequence[0, 2:]).reshape(3, 2, 8)
        cls = np.broadcast_to(layer.sequence[0, 0], patches.shape)
        x = dense(np.concatenate([patches, cls], axis=-1), own["readout"])
        x = dense(x * (1 + erf(x / np.sqrt(2))) / 2, own["projected"])
        if number < 2:
            kernel = own["enlarged"]["kernel"][::-1, ::-1]
            cells = np.einsum("hwd,yxde->hywxe", x, kernel)
            side = len(kernel)
            x = cells.reshape(3 * side, 2 * side, -1) + own["enlarged"]["bias"]
        if number == 3:
            x = conv(x, own["shrunk"], stride=2)
        maps.append(x)
    assert [x.shape for x in maps] == [(12, 8, 1), (6, 4, 2), (3, 2, 4), (2, 1, 8)]
    want = reference(maps, params)
    assert want.shape == (64, 32) and (want > NEAREST).any()
    np.testing.assert_allclose(jax.jit(head.depths)(params, layers)[0], want, rtol=1e-9)


def test_stages_are_such_maps_already():
    layers = tuple(
        tokens(grid, width) for grid, width in (((8, 5), 1), ((4, 3), 2), ((2, 2), 4), ((1, 1), 8))
    )
    head = DPTHead(NEAREST, width=4)
    params = random_like(jax.eval_shape(head.start, jax.random.key(0), layers))
    assert not [name for name in params if name.startswith("map_")]
    want = reference([np.asarray(layer.patches[0]) for layer in layers], params)
    assert (want > NEAREST).any()
    np.testing.assert_allclose(jax.jit(head.depths)(params, layers)[0], want, rtol=1e-9)


def test_corners_stay_corners():
    x = RNG.normal(size=(2, 3, 5, 2))
    found = np.asarray(jax.jit(twice)(x))
    np.testing.assert_allclose(found, zoom(x, (1, 2, 2, 1), order=1), rtol=1e-9)
    np.testing.assert_allclose(found[:, ::5, ::9], x[:, ::2, ::4], rtol=1e-9)
