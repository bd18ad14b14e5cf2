"""Every option of a backbone against every kernel: taken with it, or left to XLA, never ignored."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import pytest

from ibot_jax.config import get_config
from ibot_jax.kernels import cudnn
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import Device
from ibot_jax.models.architectures import ARCHITECTURES
from ibot_jax.models.build import build_backbone

GPU = Device("gpu", "NVIDIA H100", 9.0)
TPU = Device("tpu", "TPU v5 lite", partitioned=False)
PLAIN = {"tpu": {"packing", "tpu.attention", "tpu.attention_branch", "tpu.mlp"}, "gpu": {"cudnn"}}
BRANCHES = {"tpu.attention_branch", "tpu.mlp"}
# What a value other than the default keeps the kernels from; all else is computed outside of them.
LEFT_TO_XLA = {
    "layer_scale": (0.1, set()),
    "norm_eps": (1e-5, BRANCHES),
    "norm_kind": ("rms", BRANCHES),
    "ffn": ("swiglu", {"tpu.mlp"}),
    "qkv_bias": ("masked_key", {"tpu.attention", "tpu.attention_branch"}),
    "qk_norm": (True, {"packing", "tpu.attention", "tpu.attention_branch"}),
    "positions": ("rotary", {"packing", "tpu.attention", "tpu.attention_branch"}),
    "registers": (4, set()),
    "hidden_dim": (1024, set()),
    "untie_class_norm": (True, set()),
    "untie_local_norm": (True, set()),
}
# What changes no operation of a block, and what is no operation.
OTHERS = {
    *("depth", "heads", "scan_blocks", "pos_offset", "pos_antialias"),
    *("rope_base", "rope_min_period", "rope_max_period", "rope_coordinates", "rope_dtype"),
}


@pytest.fixture(autouse=True)
def cudnn_that_is_not_here(monkeypatch):
    """Lets what cuDNN would compute be traced: its shape alone counts."""
    monkeypatch.setattr(cudnn, "attention", lambda query, *others: query)


def taken(device, **model):
    """Returns the names of the kernels that a ViT-S of one block takes."""
    config, uses = get_config(), []
    config.model.update(depth=1, **model)
    kernels = choose("auto", device, uses)
    backbone = build_backbone(config.model, (224, 224), "bfloat16", kernels)
    images = jnp.zeros((16, 224, 224, 3), jnp.bfloat16)
    params = jax.eval_shape(backbone.init, jax.random.key(0), images)
    jax.eval_shape(functools.partial(backbone.apply, local=True), params, images)
    for name, spec in uses:
        assert importlib.import_module(f"ibot_jax.kernels.{name}").supports(spec, device)
    return {name for name, _ in uses}


def test_all_options_of_a_vit_are_here():
    assert {*ARCHITECTURES["vit"].keys, "norm_eps"} == set(LEFT_TO_XLA) | OTHERS


@pytest.mark.parametrize("option", LEFT_TO_XLA)
@pytest.mark.parametrize("device", [GPU, TPU], ids=["gpu", "tpu"])
def test_an_option_leaves_to_xla_what_no_kernel_knows(device, option):
    value, refused = LEFT_TO_XLA[option]
    plain = taken(device)
    assert plain == PLAIN[device.platform] - ({"tpu.attention"} if device is TPU else set())
    expected = plain - refused
    if {"tpu.attention_branch"} & refused and "tpu.attention" not in refused and device is TPU:
        expected |= {"tpu.attention"}  # within a branch that is XLA's
    assert taken(device, **{option: value}) == expected


@pytest.mark.slow
@pytest.mark.parametrize("pair", itertools.combinations(LEFT_TO_XLA, 2), ids="-".join)
def test_two_options_take_no_more_than_one(pair):
    both = taken(TPU, **{option: LEFT_TO_XLA[option][0] for option in pair})
    for option in pair:
        assert not both & LEFT_TO_XLA[option][1]
