"""ViTs of DINOv2 and DINOv3 by every project's names: there and back, and what is refused."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from foreign_weights import convert, failure, own_vit, prefixed

import ibot_jax
from ibot_jax.models.build import build_backbone
from ibot_jax.weights.foreign import dialects, vit
from ibot_jax.weights.foreign.files.torch_reader import read_torch
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

DATA = {
    "dinov2": ("dinov2_vit_small.npz", "84x42/offset=0.1,antialias=False", ["--heads=3"]),
    "dinov3": ("dinov3_vit_small.npz", "64x96", ["--norm-eps=1e-6"]),
}


@pytest.fixture(params=DATA)
def recorded(request, pytestconfig):
    """Returns a recording of a forward pass, where its outputs are, and what no tensor tells."""
    file, where, told = DATA[request.param]
    return dict(np.load(pytestconfig.rootpath / "tests/data" / file)), where, told


def params_of(arrays):
    return {n.removeprefix("params/"): x for n, x in arrays.items() if n.startswith("params/")}


def assert_computes(path, arrays, where):
    """Compares tokens with the recorded ones, in float32."""
    model, params = ibot_jax.load(str(path))
    images = arrays[f"{where.partition('/')[0]}/image"].transpose(0, 2, 3, 1)
    module = build_backbone(model.config.model, model.config.data.global_size, "float32")
    if "params/storage_tokens" in arrays:
        module = module.clone(rope_coordinates="max")  # which no file tells
    tokens = jax.jit(module.apply)({"params": params["backbone"]}, images)
    patches = tokens.patches.reshape(1, -1, tokens.patches.shape[-1])
    np.testing.assert_allclose(tokens.cls, arrays[f"{where}/class"], atol=2e-5)
    np.testing.assert_allclose(patches, arrays[f"{where}/patches"], atol=2e-5)


def test_the_programs_own_files(recorded, tmp_path):
    arrays, where, told = recorded
    (tmp_path / "x.pth").write_bytes(torch_bytes(params_of(arrays)))
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", *told)
    assert_computes(tmp_path / "x.npz", arrays, where)


def test_their_training_with_blocks_in_chunks_and_two_heads(recorded, tmp_path):
    arrays, where, told = recorded
    tensors = {re.sub(r"^blocks\.0", "blocks.0.0", n): x for n, x in params_of(arrays).items()}
    tensors = prefixed("backbone.", tensors)
    for head in ("dino_head", "ibot_head"):
        tensors |= {f"{head}.mlp.0.weight": np.ones((4, 4), "f")}
    (tmp_path / "x.pth").write_bytes(torch_bytes({"teacher": tensors}))
    said = convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", *told)
    assert "left out: the projection head, 2 tensors" in said
    assert_computes(tmp_path / "x.npz", arrays, where)


@pytest.mark.parametrize("to", ["pth", "timm", "hf"])
def test_every_layout_there_and_back(recorded, tmp_path, to):
    """Read back without what this project says of it in the file."""
    arrays, _, told = recorded
    for name in [name for name in arrays if "cls_norm" in name]:
        del arrays[name]  # which timm and transformers have not
    (tmp_path / "x.pth").write_bytes(torch_bytes(params_of(arrays)))
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", *told)
    there = tmp_path / ("there.pth" if to == "pth" else "there")
    convert(tmp_path / "x.npz", there, f"--to={to}")
    if to == "pth":
        tensors = {n: x.read() for n, x in read_torch(there)["teacher"].items()}
        there.write_bytes(torch_bytes({"teacher": tensors}))
        names = {n.removeprefix("backbone.") for n in tensors}
        assert names == params_of(arrays).keys()
    else:
        file = there / "model.safetensors"
        safetensors.numpy.save_file(safetensors.numpy.load_file(file), file)
    told = {"pth": told, "timm": [word for word in told if "eps" in word], "hf": []}[to]
    convert(there, tmp_path / "back.npz", "--to=npz", *told)
    expected, found = (ibot_jax.load(str(tmp_path / f"{n}.npz"))[1] for n in ("x", "back"))
    expected, found = expected["backbone"], found["backbone"]
    if to == "timm":
        expected["mask_token"] = found["mask_token"]
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_class_token_and_positions_in_timms_models_with_registers():
    tensors = {
        "cls_token": np.float32([[[1, 2]]]),
        "pos_embed": np.float32([[[10, 20], [3, 4], [5, 6]]]),
    }
    there = dialects.to_dialect(dialects.TIMM_REGISTERS, tensors)
    np.testing.assert_array_equal(there["cls_token"], [[[11, 22]]])
    np.testing.assert_array_equal(there["pos_embed"], [[[3, 4], [5, 6]]])


PERIODS = "rope_embed.periods"


@pytest.mark.parametrize(
    ("periods", "found"),
    [
        (100.0 ** (np.arange(4) / 4), {"model.rope_base": 100.0}),
        (4000.0 ** (np.arange(16) / 16), {"model.rope_base": 4000.0}),
        (
            0.5 * 64 ** np.linspace(0, 1, 8),
            {"model.rope_min_period": 0.5, "model.rope_max_period": 32.0},
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_periods_tell_their_base_or_their_ends(periods, found, dtype):
    told, notes = vit.told_by_buffers({PERIODS: periods.astype(dtype)}, "x.pth")
    assert told == {"rope": found, "head_dim": 4 * len(periods)}
    assert bool(notes) == (dtype == ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (PERIODS, [1.0, 2.0, 3.0, 9.0], "rope_embed.periods of 1, 2, 3, 9, ..., which follow"),
        (PERIODS, [1.0, np.nan], "rope_embed.periods of 1, nan"),
        ("blocks.0.attn.qkv.bias_mask", [1, 0, 0], "leaves out other biases than all of the keys'"),
        ("blocks.0.attn.qkv.bias_mask", [1, np.nan, 1], "leaves out other biases"),
    ],
)
def test_buffers_of_another_computation_are_refused(name, values, message):
    with pytest.raises(ibot_jax.errors.UserError, match=re.escape(message)):
        vit.told_by_buffers({name: np.float32(values)}, "x.pth")


ROTARY = dict(positions="rotary")


@pytest.mark.parametrize(
    ("options", "refusing"),
    [
        (dict(registers=2), ""),
        (dict(ffn="swiglu"), ""),
        (dict(ffn="swiglu", hidden_dim=80), ""),
        (dict(ffn="swiglu", hidden_dim=88), "hf"),  # by a whole ratio there
        (dict(qkv_bias="none", registers=1), ""),
        (dict(qkv_bias="masked_key"), ""),
        (dict(qk_norm=True), "hf pth"),
        (dict(norm_kind="rms"), "hf pth"),
        (dict(untie_class_norm=True), "timm hf pth"),
        (dict(untie_local_norm=True, qkv_bias="masked_key", **ROTARY), ""),
        (dict(qkv_bias="masked_key", registers=3, ffn="swiglu", hidden_dim=80, **ROTARY), ""),
        (dict(qkv_bias="none", **ROTARY), ""),
        (ROTARY, "timm"),  # a bias of keys
        (dict(qk_norm=True, **ROTARY), "timm hf pth"),
        (dict(rope_coordinates="max", **ROTARY), "timm hf"),
        (dict(rope_min_period=0.5, rope_max_period=9.0, **ROTARY), "timm hf"),
        (dict(rope_dtype="bfloat16", **ROTARY), "timm hf"),
        (dict(norm_kind="rms", qkv_bias="none", **ROTARY), "timm hf"),
    ],
    ids=str,
)
def test_an_option_is_written_or_refused_and_never_ignored(tmp_path, options, refusing):
    file = own_vit(tmp_path / "own.npz", **options)
    for to in ("timm", "hf", "pth"):
        there = tmp_path / (f"{to}.pth" if to == "pth" else to)
        if to in refusing.split():
            message = failure(file, there, f"--to={to}")
            assert f"--to={to} would compute otherwise: " in message and not there.exists()
            continue
        convert(file, there, f"--to={to}")
        convert(there, tmp_path / "back.npz", "--to=npz", "--overwrite")
        (_, params), (again, found) = (
            ibot_jax.load(str(tmp_path / name)) for name in ("own.npz", "back.npz")
        )
        for key, value in options.items():
            if key != "untie_local_norm" or to == "pth":
                assert again.config.model[key] == value, key
        expected, found = (what_features_are_of(x["backbone"], options) for x in (params, found))
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-6, err_msg=str(name))


def what_features_are_of(backbone, options):
    """Returns arrays by path: the class token with its position, no bias of masked keys."""
    arrays = flatten_dict(backbone)
    for name in [name for name in arrays if {"mask_token", "local_class_norm"} & set(name)]:
        del arrays[name]
    if ("pos_embed",) in arrays:
        positions = arrays["pos_embed",]
        arrays["cls_token",] = arrays["cls_token",] + positions[:, :1]
        arrays["pos_embed",] = positions[:, 1:]
    if options.get("qkv_bias") == "masked_key":
        keep = np.repeat([1, 0, 1], 24)
        arrays |= {name: x * keep for name, x in arrays.items() if name[-2:] == ("qkv", "bias")}
    return arrays
