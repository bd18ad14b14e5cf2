"""KoLeo against plain NumPy, row by row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.koleo import koleo

ROWS = np.random.default_rng(0).normal(size=(12, 5))


def by_hand(rows, group, nearest=1):
    """The loss, and the mean distance to the nearest neighbour."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logs, nearest_ones = [], []
    for i, unit in enumerate(units):
        first = i // group * group
        others = [units[j] for j in range(first, first + group) if j != i]
        distances = sorted(np.linalg.norm(unit - other) for other in others)
        logs += [np.log(distance) for distance in distances[:nearest]]
        nearest_ones.append(distances[0])
    return -np.mean(logs), np.mean(nearest_ones)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("nearest", [1, 3])
@pytest.mark.parametrize("group", [4, 6, 12])
def test_images_are_pushed_away_from_the_nearest_of_their_group(group, nearest):
    found = jax.jit(functools.partial(koleo, group=group, nearest=nearest))(ROWS)
    np.testing.assert_allclose(found, by_hand(ROWS, group, nearest), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("group", "devices"), [(2, 2), (3, 2), (6, 2), (12, 2), (4, 3), (12, 3), (2, 6), (4, 6), (6, 6)]
)
def test_groups_do_not_depend_on_devices(group, devices):
    """As long as they divide, or are divided by, the images of a device."""
    of_device = len(ROWS) // devices
    spread = functools.partial(koleo, group=group, across=("device",))

    def mean(rows):
        losses, distances = jax.vmap(spread, axis_name="device")(rows)
        return losses.mean(), distances.mean()

    rows = jnp.asarray(ROWS.reshape(devices, of_device, -1))
    (loss, distance), gradient = jax.value_and_grad(mean, has_aux=True)(rows)
    np.testing.assert_allclose((loss, distance), by_hand(ROWS, group), rtol=1e-6, atol=1e-7)
    alone = jax.grad(lambda rows: koleo(rows, group)[0])(jnp.asarray(ROWS))
    np.testing.assert_allclose(gradient.reshape(ROWS.shape), alone, rtol=1e-9, atol=1e-12)


def test_the_gradient_flows_into_both():
    gradient = jax.grad(lambda rows: koleo(rows, 12, 2)[0])(jnp.asarray(ROWS))
    step = 1e-6
    for i, j in ((0, 0), (3, 4), (11, 2)):
        moved = np.zeros_like(ROWS)
        moved[i, j] = step
        ends = [by_hand(ROWS + sign * moved, 12, 2)[0] for sign in (1, -1)]
        np.testing.assert_allclose(gradient[i, j], np.subtract(*ends) / (2 * step), rtol=1e-4)


def test_equal_and_empty_rows_have_finite_losses_and_gradients():
    rows = np.array(ROWS, np.float32)
    rows[1], rows[2] = rows[0], 0
    for dtype in (jnp.float32, jnp.float64):
        value, gradient = jax.value_and_grad(lambda rows: koleo(rows, 12)[0])(rows.astype(dtype))
        assert np.isfinite(value) and np.isfinite(gradient).all()
