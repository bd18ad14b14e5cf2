"""Counts of backbones against the published ones, and against the models themselves."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.config import SWIN_SIZES, VIT_SIZES, get_config
from ibot_jax.config.sizes import DINOV2, DINOV3
from ibot_jax.models import counts
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import build_backbone
from ibot_jax.weights.foreign import original_names

GLOBAL = (224, 224)


def section(size, **overrides):
    model = get_config().model
    model.update(SWIN_SIZES[size], **overrides)
    return model


def shapes(model):
    backbone = build_backbone(model, GLOBAL, "float32")
    return jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, *GLOBAL, 3)))["params"]


@pytest.mark.parametrize(
    ("size", "published"), [("tiny", 4.5), ("small", 8.7), ("base", 15.4), ("large", 34.5)]
)
def test_a_forward_pass_takes_the_published_multiplications(size, published):
    """G multiply-adds at 224 pixels with windows of 7: table 1 of Swin's paper."""
    flops = counts.flops(section(size), 3, GLOBAL, GLOBAL)
    assert sum(flops.values()) / 2e9 == pytest.approx(published, rel=0.01)


def test_small_views_keep_the_windows_of_global_ones():
    tokens, keys = zip(
        *((s.tokens, s.keys) for s in counts.stages(section("tiny"), (96, 96), GLOBAL)), strict=True
    )
    assert tokens == (24**2, 12**2, 6**2, 3**2)
    assert keys == (49, 49, 49, 49)


@pytest.mark.parametrize("window", [7, 14])
@pytest.mark.parametrize("size", SWIN_SIZES)
def test_parameters_are_those_of_the_model(size, window):
    model = section(size, window=window)
    of_model = sum(leaf.size for leaf in jax.tree.leaves(shapes(model)))
    assert sum(counts.parameters(model, 3, GLOBAL)) == of_model


@pytest.mark.parametrize("window", [7, 14])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_names_and_shapes_are_those_of_the_published_models(reference, size, window):
    published = json.loads(reference("state_dict_shapes_swin.json").read_text())
    expected = {
        name: tuple(shape)
        for name, shape in published[f"swin_{size}, window {window}"].items()
        if name.startswith("backbone.")
    }
    model = section(size, window=window)
    zeros = jax.tree.map(lambda x: jnp.broadcast_to(0.0, x.shape), shapes(model))
    ours = original_names.to_torch({"backbone": zeros}, model.patch_size)
    assert {name: tensor.shape for name, tensor in ours.items()} == expected
    assert geometry_of(model).width == math.prod(expected["backbone.norm.weight"])


HEIRS = {
    "dinov2_vits14": ("small", DINOV2),
    "dinov2_vitg14_reg": ("giant", DINOV2 | dict(registers=4)),
    "dinov3_vits16": ("small", DINOV3),
    "dinov3_vits16plus": ("small_plus", DINOV3),
    "dinov3_vitl16plus": ("large_plus", DINOV3),
    "dinov3_vith16plus": ("huge_plus", DINOV3),
    "dinov3_vit7b16": ("7b", DINOV3 | dict(qkv_bias="none", untie_local_norm=True)),
}


@pytest.mark.parametrize("name", HEIRS)
def test_the_heirs_have_as_many_parameters_as_published(name, reference):
    size, options = HEIRS[name]
    program = "dinov2 (torch hub)" if name.startswith("dinov2") else "dinov3 (torch hub)"
    published = json.loads(reference("state_dict_shapes_dino.json").read_text())[program][name]
    config = get_config()
    config.model.update(VIT_SIZES[size] | options)
    pixels = (518, 518) if program.startswith("dinov2") else (224, 224)
    number = sum(counts.parameters(config.model, 3, pixels))
    buffers = sum(
        np.prod(shape) * (1 if name.startswith("rope") else published["depth"])
        for name, shape in published["shapes_with_block_0_only"].items()
        if name.endswith(("periods", "bias_mask"))
    )
    assert number == published["numbers_in_state_dict"] - buffers
    shapes = build_backbone(config.model, pixels, "float32").init
    params = jax.eval_shape(shapes, jax.random.key(0), jnp.zeros((1, *pixels, 3)))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == number


@pytest.mark.parametrize(
    "options",
    [
        dict(ffn="swiglu", registers=3),
        dict(norm_kind="rms", qk_norm=True, qkv_bias="none"),
        dict(positions="rotary", untie_class_norm=True, untie_local_norm=True, norm_kind="rms"),
    ],
    ids=str,
)
def test_parameters_of_options_are_counted(options):
    config = get_config()
    config.model.update(width=24, depth=2, heads=2, patch_size=8, **options)
    backbone = build_backbone(config.model, (16, 24), "float32")
    params = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))["params"]
    expected = sum(x.size for x in jax.tree.leaves(params))
    assert sum(counts.parameters(config.model, 3, (16, 24))) == expected
