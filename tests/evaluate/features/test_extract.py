"""What features are: class tokens, means of patches, both, pixels."""

import numpy as np
import pytest

from ibot_jax.errors import UserError
from ibot_jax.evaluate.features.extract import make_feature_fn
from ibot_jax.weights.load import load


@pytest.fixture(scope="module")
def loaded(workdir):
    return load(workdir)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_they_are_made_of_the_last_blocks_tokens(loaded, images, kind, blocks):
    model, params = loaded
    layers = np.asarray(model.last_layers(params, images, blocks))
    classes = [layer[:, 0] for layer in layers]
    means = [layer[:, 1:].mean(axis=1) for layer in layers]
    parts = {"cls": classes, "mean": means, "cls+mean": [*classes, means[-1]]}[kind]
    found = make_feature_fn(model, kind, blocks)(params, images)
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), atol=1e-6)


@pytest.mark.parametrize("number", [1, 3, 16])
def test_the_most_attended_patches_are_those_of_the_class_tokens_row(loaded, images, number):
    model, params = loaded
    tokens = np.asarray(model.tokens(params, images))
    attention = np.asarray(model.attention(params, images).weights)  # [B, heads, T, T]
    found = make_feature_fn(model, f"top{number}", 1)(params, images)
    for own, rows, mean in zip(tokens, attention, found, strict=True):
        order = np.argsort(-rows[:, 0, 1:].mean(axis=0), kind="stable")[:number]
        np.testing.assert_allclose(mean, own[1:][order].mean(axis=0), atol=1e-5)
    if number == 16:  # all there are
        expected = make_feature_fn(model, "mean", 1)(params, images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_more_patches_than_an_image_has_are_refused(loaded, images):
    model, params = loaded
    with pytest.raises(UserError, match="top17 is more than the 16 patches of an image"):
        make_feature_fn(model, "top17", 1)(params, images)
    with pytest.raises(UserError, match="top2 is of the last block alone; give --blocks=1"):
        make_feature_fn(model, "top2", 2)


def test_pixels_need_no_parameters(loaded, images):
    data = loaded[0].config.data
    expected = ((images / 255 - data.mean) / data.std).reshape(3, -1)
    found = make_feature_fn(loaded[0], "pixels", 1)({}, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_more_blocks_than_the_model_has_are_refused(loaded):
    with pytest.raises(UserError, match="--blocks=3 is more than the 2 of the model"):
        make_feature_fn(loaded[0], "cls", 3)
