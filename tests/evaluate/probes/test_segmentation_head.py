"""The segmentation head and its loss give the recorded numbers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import inexact_products

from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED
from ibot_jax.evaluate.features import bilinear
from ibot_jax.evaluate.features.patch_maps import concatenated
from ibot_jax.evaluate.probes import segmentation_head
from ibot_jax.evaluate.probes.segmentation_head import Head, Running


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def recorded(dense_evaluation):
    """Returns the arrays of the recorded head by name."""
    prefix = "seghead/"
    return {k.removeprefix(prefix): v for k, v in dense_evaluation.items() if k.startswith(prefix)}


@pytest.fixture
def tokens(recorded):
    """Returns the recorded features of four layers, one on a coarser grid, as one map."""
    maps = [recorded[f"features/{layer}"].transpose(0, 2, 3, 1) for layer in range(4)]
    return concatenated(list(map(jnp.asarray, maps)))


@pytest.fixture
def trained(recorded):
    norm = "params/batchnorm_layer."
    head = Head(
        recorded["params/conv.weight"][:, :, 0, 0].T,
        recorded["params/conv.bias"],
        recorded[f"{norm}weight"],
        recorded[f"{norm}bias"],
    )
    running = Running(recorded[f"{norm}running_mean"], recorded[f"{norm}running_var"])
    return jax.tree.map(jnp.asarray, (head, running))


def last(array):
    """Returns an array [B, C, h, w] as [B, h, w, C]."""
    return np.moveaxis(array, 1, -1)


def test_logits_are_the_recorded_ones(recorded, tokens, trained):
    found = segmentation_head.logits(*trained, tokens)
    np.testing.assert_allclose(found, last(recorded["logits"]), rtol=1e-9, atol=1e-12)


def test_logits_enlarged_to_pixels_are_the_recorded_ones(recorded, tokens, trained):
    values = np.asarray(segmentation_head.logits(*trained, tokens))
    rows, columns = bilinear.weights(5, 20), bilinear.weights(7, 28)
    found = np.einsum("yh,xw,bhwc->byxc", rows, columns, values)
    np.testing.assert_allclose(found, last(recorded["predict_20x28"]), rtol=1e-9, atol=1e-12)


def test_a_step_of_training_is_the_recorded_one(recorded, tokens, trained):
    head, running = trained
    labels = jnp.asarray(recorded["train/labels"])
    assert (labels == IGNORED).any()

    def loss(head):
        values, seen = segmentation_head.training_logits(
            head, running, tokens, jax.random.key(0), 0.0
        )
        return segmentation_head.loss(values, labels), (values, seen)

    (value, (values, seen)), grads = jax.value_and_grad(loss, has_aux=True)(head)
    np.testing.assert_allclose(values, last(recorded["train/logits"]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value, recorded["train/loss_mean_over_all_pixels"], rtol=1e-9)
    want = recorded["train/conv_weight_grad"][:, :, 0, 0].T
    np.testing.assert_allclose(grads.kernel, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(seen.mean, recorded["train/running_mean"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(seen.variance, recorded["train/running_var"], rtol=1e-9)


def test_without_batch_norm_the_head_is_a_linear_layer(tokens):
    head, running = segmentation_head.start(
        tokens.shape[-1], 6, jax.random.key(0), batch_norm=False
    )
    assert np.std(head.kernel) == pytest.approx(0.01, rel=0.2) and not np.any(head.bias)
    want = np.asarray(tokens) @ np.asarray(head.kernel)
    np.testing.assert_allclose(segmentation_head.logits(head, running, tokens), want, rtol=1e-9)
    values, seen = segmentation_head.training_logits(head, running, tokens, jax.random.key(0), 0.0)
    np.testing.assert_allclose(values, want, rtol=1e-9)
    jax.tree.map(np.testing.assert_array_equal, seen, running)


def test_dropout_leaves_out_features_of_whole_images():
    """Of a layer that adds up all features, each of which is 1 everywhere."""
    features, share = 2000, 0.1
    head = Head(jnp.ones((features, 1)), jnp.zeros(1), None, None)
    running = Running(jnp.zeros(features), jnp.ones(features))
    tokens = jnp.ones((2, 3, 4, features))
    found, _ = segmentation_head.training_logits(head, running, tokens, jax.random.key(0), share)
    assert np.ptp(found, axis=(1, 2)).max() == 0  # the same features on all patches
    np.testing.assert_allclose(found, features, rtol=0.03)
    assert found[0, 0, 0] != found[1, 0, 0] != features


def test_where_nothing_is_labelled_the_loss_is_zero(tokens, trained):
    values = segmentation_head.logits(*trained, tokens)
    nothing = jnp.full((2, 20, 28), IGNORED, jnp.uint8)
    value, grad = jax.value_and_grad(segmentation_head.loss)(values, nothing)
    assert value == 0 and not np.any(grad)


def test_products_are_exact_on_accelerators():
    with jax.enable_x64(False):
        head, running = segmentation_head.start(5, 3, jax.random.key(0), batch_norm=True)
        tokens, labels = jnp.ones((2, 4, 4, 5)), jnp.zeros((2, 32, 32), jnp.uint8)

        def loss(head):
            values, _ = segmentation_head.training_logits(
                head, running, tokens, jax.random.key(0), 0.1
            )
            return segmentation_head.loss(values, labels)

        assert not inexact_products(jax.grad(loss), head)
