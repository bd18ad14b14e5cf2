"""The depth head and its losses give the recorded numbers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import zoom

from ibot_jax.evaluate.probes import depth_head
from ibot_jax.evaluate.probes.depth_head import DepthHead


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_depths_are_the_recorded_ones(dense_evaluation):
    maps = []
    for layer in range(4):
        patches = dense_evaluation[f"dephead/patches/{layer}"].transpose(0, 2, 3, 1)
        cls = dense_evaluation[f"dephead/class/{layer}"][:, None, None]
        maps += [patches, np.broadcast_to(cls, patches.shape)]
    weight = dense_evaluation["dephead/weight"][:, :, 0, 0]
    head = DepthHead(jnp.asarray(weight.T), jnp.asarray(dense_evaluation["dephead/bias"]))
    found = depth_head.depths(head, jnp.concatenate(maps, -1), 1e-3, 10.0)
    np.testing.assert_allclose(found, dense_evaluation["dephead/v2_depth"][:, 0], rtol=1e-9)


@pytest.mark.parametrize(("key", "warming"), [("sigloss", False), ("sigloss_warming", True)])
def test_the_loss_of_logarithms_is_the_recorded_one(dense_evaluation, key, warming):
    target, prediction = (
        jnp.asarray(dense_evaluation[f"depth/{name}"][:, 0]) for name in ("target", "prediction")
    )
    value, grad = jax.value_and_grad(depth_head.log_loss)(prediction, target, 10.0, warming)
    np.testing.assert_allclose(value, dense_evaluation[f"depth/{key}"], rtol=1e-9)
    np.testing.assert_allclose(
        grad, dense_evaluation[f"depth/{key}/grad"][:, 0], rtol=1e-7, atol=1e-15
    )


def test_the_loss_of_gradients_is_the_recorded_one(dense_evaluation):
    target, prediction = (
        jnp.asarray(dense_evaluation[f"depth/{name}"][:, 0]) for name in ("target", "prediction")
    )
    value, grad = jax.value_and_grad(depth_head.gradient_loss)(prediction, target, 10.0)
    np.testing.assert_allclose(value, dense_evaluation["depth/gradient_log"], rtol=1e-9)
    np.testing.assert_allclose(
        grad, dense_evaluation["depth/gradient_log/grad"][:, 0], rtol=1e-7, atol=1e-15
    )


def test_the_rate_is_the_recorded_one_after_its_warmup(dense_evaluation):
    want = dense_evaluation["lr/nyu_linear_38400_warmup_12800"]
    steps = np.arange(0, 38_400, 100)
    found = depth_head.rate(steps, 3e-4, 38_400, 12_800)
    later = steps >= 12_800
    np.testing.assert_allclose(found[later], want[later], rtol=1e-9)
    assert found[0] == pytest.approx(want[0], rel=1e-4)
    np.testing.assert_array_less(np.abs(found - want), 4e-7)  # the recorded warm-up has a curve


def test_losses_of_what_is_right_are_zero_and_have_gradients():
    target = jnp.array(np.random.default_rng(0).uniform(1, 9, (1, 12, 12)))
    for loss in (
        lambda x: depth_head.log_loss(x, target, 10.0, False),
        lambda x: depth_head.gradient_loss(x, target, 10.0),
    ):
        value, grad = jax.value_and_grad(loss)(target)
        assert value == 0 and np.isfinite(grad).all()


def test_without_depths_the_losses_are_zero():
    nothing, prediction = jnp.zeros((1, 9, 9)), jnp.ones((1, 9, 9))
    for value in (
        depth_head.log_loss(prediction, nothing, 10.0, False),
        depth_head.gradient_loss(prediction, nothing, 10.0),
    ):
        assert value == 0


def test_depths_are_resized_bilinearly():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (2, 5, 7))
    found = depth_head.at_size(jnp.asarray(depth), (15, 21))
    want = zoom(depth, (1, 3, 3), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, want, rtol=1e-9)
