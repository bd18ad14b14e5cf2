"""Evaluations and figures of a backbone whose blocks differ in width and grid."""

import jax
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.evaluate.benchmarks.robustness_curves import make_curve_fn
from ibot_jax.evaluate.features import patch_maps
from ibot_jax.evaluate.features.extract import make_feature_fn
from ibot_jax.evaluate.probes.linear_sweep import Variant
from ibot_jax.evaluate.tasks import (
    copydetection,
    davis,
    discovery,
    retrieval,
    segmentation,
)
from ibot_jax.visualize import attention
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 38, 50, 3), dtype=np.uint8)
WHOLE = IMAGES[:, :32, :48]  # of cells of 16 pixels: 2 x 3


@pytest.fixture(scope="module")
def swin():
    """Three stages of widths 8, 16 and 32, whose tokens stand for 4, 8 and 16 pixels."""
    config = tiny_config(model__arch="swin", data__global_size=(32, 32))
    config.model.update(width=8, stage_depths=(1, 1, 2), stage_heads=(1, 2, 4), window=2)
    return untrained(Model(config, "random"))


@pytest.fixture(scope="module")
def layers(swin):
    model, params = swin
    return model.layers(params, WHOLE, range(4))


@pytest.mark.slow
def test_the_model_names_its_tokens(swin, layers):
    model, params = swin
    assert (model.geometry.stride, model.geometry.widths) == (16, (8, 16, 32))
    tokens = model.features(params, WHOLE)
    assert jax.tree.map(np.shape, tokens.patches) == (2, 2, 3, 32)
    np.testing.assert_allclose(tokens.cls, tokens.patches.mean(axis=(1, 2)), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, layers[-1], tokens)
    last, first = model.layers(params, WHOLE, (3, 0))
    np.testing.assert_array_equal(first.patches, layers[0].patches)
    np.testing.assert_array_equal(last.patches, layers[3].patches)
    assert model.attention(params, WHOLE).cls.shape == (2, 4, 2, 3)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean"])
def test_features_of_blocks_of_any_width(swin, layers, kind, blocks):
    model, params = swin
    found = make_feature_fn(model, kind, blocks)(params, IMAGES)  # what fills no cell is cut off
    means = [np.asarray(tokens.patches).mean(axis=(1, 2)) for tokens in layers[-blocks:]]
    expected = means + (means[-1:] if kind == "cls+mean" else [])  # a Swin's class token is one
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-5)
    every = make_feature_fn(model, "all", 3)(params, IMAGES)
    np.testing.assert_allclose(Variant(kind, blocks).columns(every, (16, 32, 32)), found, atol=1e-6)


@pytest.mark.slow
def test_tasks_take_them(swin, layers):
    model, params = swin
    assert copydetection.make_copy_fn(model)(params, IMAGES).shape == (2, 64)
    assert retrieval.make_describe(model, (1,))(params, IMAGES[0]).shape == (32,)
    assert davis.make_dense_fn(model, 32)(params, np.tile(IMAGES[0], (1, 2, 1))).shape == (2, 4, 32)
    curve_fn = make_curve_fn(model, (38, 50), (0.0, 0.5), (2,), seed=0)
    assert curve_fn(params, IMAGES).shape == (2, 7, 32)  # three orders by two shares, and tiles
    for kind in ("keys", "patches"):  # of images that are filled up to whole cells
        assert discovery.make_map_fn(model, kind)(params, IMAGES[0]).shape == (3, 4, 32)
    found = patch_maps.make_patch_fn(model)(params, WHOLE)
    np.testing.assert_array_equal(found, layers[-1].patches)


def test_segmentation_concatenates_stages_on_the_finest_grid(swin, layers):
    model, params = swin
    found = segmentation.make_patch_fn(model, (1, 3), normalized=True)(params, WHOLE)
    assert found.shape == (2, 4, 6, 16 + 32)
    np.testing.assert_allclose(found[..., :16], layers[1].patches, atol=1e-6)


def test_attention_is_drawn_on_the_grid_of_output_tokens(swin):
    maps = attention.attention_fn(*swin)(WHOLE[0])
    assert maps.shape == (4, 2, 3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
