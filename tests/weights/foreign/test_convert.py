"""Other projects' files: read as what they are, or refused by the name of what is in the way."""

import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from foreign_weights import (
    WIDTH,
    convert,
    failure,
    features,
    images_of,
    prefixed,
    projection_head,
    safetensors_bytes,
    vit,
)
from tiny import tiny_config

import ibot_jax
from ibot_jax.models.build import build_backbone, build_head, init_params
from ibot_jax.weights.foreign import original_names
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.convert import take
from ibot_jax.weights.foreign.files.contents import Contents
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

HEADS = "--heads=4"


def save(path, tensors):
    """Writes tensors by name, or a tree of them, in the format that the path says."""
    if path.suffix == ".npz":
        np.savez(path.open("wb"), **tensors)
    else:
        write = safetensors_bytes if path.suffix == ".safetensors" else torch_bytes
        path.write_bytes(write(tensors))
    return path


def assert_computes(path, tensors, *, grid=(4, 4), norm_eps=1e-6, **options):
    """Compares features with those of the tensors, by NumPy."""
    model, params = ibot_jax.load(str(path), **options)
    images = images_of(grid)
    expected = features(tensors, images, grid, norm_eps)
    np.testing.assert_allclose(model.tokens(params, images), expected, atol=2e-4)


# What these projects have and a plain Vision Transformer has not. Each changes tokens.
STRUCTURAL = [
    "dist_token",  # DeiT
    "norm_pre.weight",  # CLIP
    "fc_norm.weight",  # MAE's fine-tuning
    "blocks.0.attn.q_bias",  # BEiT
    "blocks.0.attn.relative_position_bias_table",
    "blocks.0.attn.norm.weight",
    "blocks.0.attn.proj.lora_A.weight",
    "blocks.0.mlp.w12.weight",  # gated
    "blocks.0.mlp.norm.weight",
    "blocks.0.adapter.down.weight",
    "blocks.0.ls3.gamma",
    "blocks.0.attn.head.weight",
    "blocks.2.norm1.weight",  # a block more, of which there is this alone
    "patch_embed.norm.weight",
    "token_type_embeddings.weight",
    "prompts",
    "temperature",
]


@pytest.mark.parametrize("name", STRUCTURAL)
def test_what_tokens_are_computed_from_is_never_left_over(tmp_path, name):
    file = save(tmp_path / "x.pth", vit() | {name: np.ones(WIDTH, np.float32)})
    for allow in ([], [f"--allow={name}"], ["--allow=*"]):
        message = failure(file, tmp_path / "o.npz", "--to=npz", HEADS, *allow)
        assert (name in message or "lacks blocks.2." in message) and "--allow" not in message
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("register_tokens", "has register_tokens of shape (32,), not of 3 axes"),
        ("storage_tokens", "holds pos_embed besides"),
        ("rope_embed.periods", "holds pos_embed besides"),
        ("blocks.0.attn.q_norm.weight", "lacks blocks.1.attn.q_norm.weight, "),
        ("cls_norm.weight", "lacks cls_norm.bias"),
    ],
)
def test_half_of_what_the_heirs_have_is_no_model(tmp_path, name, message):
    file = save(tmp_path / "x.pth", vit() | {name: np.ones(WIDTH, np.float32)})
    assert message in failure(file, tmp_path / "o.npz", "--to=npz", HEADS)


@pytest.mark.parametrize("prefix", ["", "visual.", "embeddings.", "vision_model.embeddings."])
def test_the_vision_towers_of_clip_normalise_first(tmp_path, prefix):
    """By the names of OpenCLIP and of transformers; timm's is above (`norm_pre`)."""
    file = save(tmp_path / "x.pth", {f"{prefix}class_embedding": np.ones(WIDTH, "f")})
    message = failure(file, tmp_path / "o.npz", "--to=npz")
    assert "CLIP's vision tower, which normalises tokens before its first block" in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip_vision_model"}, "CLIP's vision tower, which normalises tokens"),
        ({"architecture": "vit_base_patch32_clip_quickgelu_224"}, "GELU is exact here"),
        ({"architecture": "vit_base_patch16_rope_ape_224"}, "positions here are those of DINOv3"),
        ({"architecture": "vit_pe_core_tiny_patch16_384"}, "positions here are those of DINOv3"),
    ],
)
def test_what_only_a_config_tells_is_refused_by_it(tmp_path, config, message):
    folder = timm_folder(tmp_path / "x", vit())
    (folder / "config.json").write_text(json.dumps(config))
    assert message in failure(folder, tmp_path / "o.npz", "--to=npz")


def test_nor_beside_the_backbone_nor_as_a_table_inside(tmp_path):
    beside = prefixed("backbone.", vit()) | {"adapter.weight": np.ones(3, np.float32)}
    table = vit() | {"blocks.0.attn.index": np.arange(3, dtype=np.int64)}
    for tensors, name in ((beside, "adapter.weight"), (table, "blocks.0.attn.index")):
        file = save(tmp_path / "x.safetensors", tensors)
        message = failure(file, tmp_path / "o.npz", "--to=npz", HEADS, "--allow=*")
        assert name in message and "--allow" not in message


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("", "head.weight"),
        ("", "fc.bias"),
        ("", "pre_logits.fc.weight"),
        ("", "decoder_blocks.0.attn.qkv.weight"),
        ("vit.", "classifier.weight"),
        ("vit.", "vit.pooler.dense.weight"),
        ("model.backbone.", "model.classifier.weight"),
        ("model.backbone.", "criterion.center"),
        ("backbone.", "head.weight"),
    ],
)
def test_what_reads_the_tokens_may_be_left_over_if_said(tmp_path, prefix, name):
    tensors = prefixed(prefix, vit()) | {name: np.ones((3, WIDTH), np.float32)}
    file = save(tmp_path / "x.safetensors", tensors)
    assert f"--allow='{name}'" in failure(file, tmp_path / "o.npz", "--to=npz", HEADS)
    said = convert(file, tmp_path / "o.npz", "--to=npz", HEADS, f"--allow={name}")
    assert f"left out: {name}\n" in said
    assert_computes(tmp_path / "o.npz", vit())


def test_a_norm_that_is_missing_whole_is_another_network(tmp_path):
    tensors = vit()
    del tensors["norm.bias"]
    file = save(tmp_path / "x.pth", tensors)
    convert(file, tmp_path / "o.npz", "--to=npz", HEADS, "--allow=norm.bias")
    assert_computes(tmp_path / "o.npz", tensors | {"norm.bias": np.zeros(WIDTH)})
    del tensors["norm.weight"]
    message = failure(
        save(tmp_path / "x.pth", tensors), tmp_path / "p.npz", "--to=npz", HEADS, "--allow=*"
    )
    assert "lacks norm.weight, norm.bias" in message and "--allow" not in message


def test_with_its_head_no_other_head_is_left_over(tmp_path):
    tensors = prefixed("backbone.", vit()) | prefixed("head.", projection_head())
    for name in ("head.mlp.1.weight", "ibot_head.mlp.0.weight", "head2.weight"):
        file = save(tmp_path / "x.pth", {"teacher": tensors | {name: np.ones(48, np.float32)}})
        arguments = (file, tmp_path / "o.npz", "--to=npz", HEADS, "--head", "--allow=*")
        assert name in failure(*arguments)


@pytest.mark.parametrize("head", ["head.", "dino_head."])
def test_the_head_comes_along_however_its_weight_norm_is_spelled(tmp_path, head):
    there = projection_head()
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in there.items()
    }
    for number, spelled in enumerate((there, newer)):
        tensors = prefixed("backbone.", vit()) | prefixed(head, spelled)
        file = save(tmp_path / "x.pth", {"teacher": tensors})
        convert(file, tmp_path / f"{number}.npz", "--to=npz", HEADS, "--head")
        _, params = ibot_jax.load(str(tmp_path / f"{number}.npz"), head=True)
        last, hidden = params["head"]["last_layer"], params["head"]["mlp_2"]
        np.testing.assert_array_equal(last["v"].T, there["last_layer.weight_v"])
        np.testing.assert_array_equal(last["g"].T, there["last_layer.weight_g"])
        np.testing.assert_array_equal(hidden["bias"], there["mlp.4.bias"])


def test_the_mask_token_of_a_masked_autoencoder_is_its_decoders(tmp_path):
    decoder = {"mask_token": np.ones((1, 1, 8), "f"), "decoder_embed.weight": np.ones((8, 32), "f")}
    file = save(tmp_path / "x.pth", {"model": vit() | decoder})
    said = convert(
        file, tmp_path / "o.npz", "--to=npz", HEADS, "--allow=decoder_*", "--allow=mask_token"
    )
    assert "no mask token in it" in said and "left out: mask_token, decoder_embed.weight" in said
    assert_computes(tmp_path / "o.npz", vit())


def chunked(tensors):
    """As DINOv2 trains blocks: in chunks, here of one, within which they keep their numbers."""
    return {re.sub(r"^blocks\.(\d+)", r"blocks.\1.\1", n): tensor for n, tensor in tensors.items()}


WRAPPED = {
    "DistributedDataParallel": lambda t: prefixed("module.", t),
    "torch.compile": lambda t: prefixed("_orig_mod.", t),
    "both": lambda t: prefixed("module._orig_mod.", t),
    "a compiled block": lambda t: {
        n.replace("blocks.1.", "blocks.1._orig_mod."): x for n, x in t.items()
    },
    "FSDP": lambda t: {
        f"_fsdp_wrapped_module.{n}".replace("s.0.", "s.0._fsdp_wrapped_module."): x
        for n, x in t.items()
    },
    "Lightning": lambda t: {"epoch": 3, "state_dict": prefixed("model.", t)},
    "Lightning, deeper": lambda t: {"state_dict": prefixed("net.module.encoder.", t)},
    "DINOv2's training": lambda t: {
        "teacher": prefixed("backbone.", chunked(t)) | prefixed("dino_head.", projection_head())
    },
    "DINOv2's training, both": lambda t: {
        "model": prefixed("student.backbone.", vit(seed=5)) | prefixed("teacher.backbone.", t),
        "iteration": 10,
    },
    "modules": lambda t: {"net": t, "optimizer": {"state": {}, "lr": "0.1"}},
    "DeepSpeed": lambda t: {"module": t},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_whatever_wrapped_a_model_is_seen_through(tmp_path, how):
    tensors = vit(gains=True)
    file = save(tmp_path / "x.pth", WRAPPED[how](tensors))
    convert(file, tmp_path / "o.npz", "--to=npz", HEADS)
    assert_computes(tmp_path / "o.npz", tensors)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("student_backbone.", "teacher_backbone."),
        ("student.module.backbone.", "teacher.backbone."),
        ("backbone.", "backbone_momentum."),
        ("model.", "ema_model."),
        ("online_encoder.", "target_encoder."),
    ],
)
def test_names_tell_the_student_from_the_teacher(tmp_path, student, teacher):
    tensors = prefixed(student, vit(seed=5)) | prefixed(teacher, vit())
    file = save(tmp_path / "x.safetensors", tensors)
    for who, seed in (("student", 5), ("teacher", 0)):
        said = convert(file, tmp_path / f"{who}.npz", "--to=npz", HEADS, f"--weights={who}")
        assert f"left out: the {'teacher' if who == 'student' else 'student'}\n" in said
        assert_computes(tmp_path / f"{who}.npz", vit(seed=seed))


def test_two_models_that_no_name_tells_apart_are_refused(tmp_path):
    tensors = prefixed("left.", vit()) | prefixed("right.", vit(seed=1))
    file = save(tmp_path / "x.safetensors", tensors)
    message = failure(file, tmp_path / "o.npz", "--to=npz", HEADS)
    assert "several backbones, whose names start with left., right." in message
    twice = vit() | {"module.cls_token": np.ones((1, 1, WIDTH), np.float32)}
    message = failure(save(tmp_path / "x.pth", twice), tmp_path / "o.npz", "--to=npz", HEADS)
    assert "cls_token and module.cls_token, which are the same tensor" in message


@pytest.mark.parametrize("grid", [(2, 8), (3, 4)])
def test_the_grid_is_as_said(tmp_path, grid):
    file = save(tmp_path / "x.safetensors", vit(grid))
    said = f"--grid={grid[0]}x{grid[1]}"
    convert(file, tmp_path / "o.npz", "--to=npz", HEADS, said)
    assert_computes(tmp_path / "o.npz", vit(grid), grid=grid)
    assert "--grid=5x5 are 25 patches" in failure(
        file, tmp_path / "p.npz", "--to=npz", HEADS, "--grid=5x5"
    )


def test_a_grid_is_never_guessed_in_silence(tmp_path):
    said = convert(
        save(tmp_path / "x.safetensors", vit((2, 8))), tmp_path / "o.npz", "--to=npz", HEADS
    )
    assert (
        "not told, so as usual: a square grid of 4x4 patches (--grid), ImageNet's mean (--mean), "
        "ImageNet's std (--std)\n"
    ) in said
    usual = {"--grid=4x4", "--mean=0,0,0", "--std=1,1,1"}
    for flag in usual:
        more = usual - {flag}
        file = tmp_path / "x.safetensors"
        said = convert(file, tmp_path / "o.npz", "--to=npz", HEADS, "--overwrite", *more)
        assert f"({flag.partition('=')[0]})\n" in said
    assert "not told" not in convert(
        file, tmp_path / "o.npz", "--to=npz", HEADS, "--overwrite", *usual
    )
    file = save(tmp_path / "y.safetensors", vit((3, 4)))
    assert "say which by --grid=HxW" in failure(file, tmp_path / "p.npz", "--to=npz", HEADS)
    for flag in ("--grid=4", "--grid=0x4", "--grid=2x8x1", "--grid=-2x-8"):
        assert "is no grid of patches such as 14x14" in failure(
            file, tmp_path / "p.npz", "--to=npz", HEADS, flag
        )


def timm_folder(path, tensors, args=None, **settings):
    path.mkdir(exist_ok=True)
    save(path / "model.safetensors", tensors)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"embed_dim": WIDTH, "num_heads": 4, "patch_size": 4} | (args or {}),
        "pretrained_cfg": {"input_size": [3, 16, 16]} | settings,
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_folder_whose_size_is_not_that_of_its_positions_is_refused(tmp_path):
    wide = timm_folder(tmp_path / "wide", vit((2, 8)), input_size=[3, 8, 32])
    convert(wide, tmp_path / "o.npz", "--to=npz")
    assert_computes(tmp_path / "o.npz", vit((2, 8)), grid=(2, 8))
    other = timm_folder(tmp_path / "other", vit((4, 4)), input_size=[3, 8, 16])
    message = failure(other, tmp_path / "p.npz", "--to=npz")
    assert "8x16 pixels, 2x4 patches of 4, and has positions of a class token and 16" in message
    convert(other, tmp_path / "p.npz", "--to=npz", "--grid=4x4")
    assert_computes(tmp_path / "p.npz", vit())


@pytest.mark.parametrize("size", [[8, 32], {"height": 8, "width": 32}])
def test_sizes_are_read_however_they_are_written(tmp_path, size):
    args = {"img_size": size, "patch_size": [4, 4], "depth": 2, "drop_path_rate": 0.1}
    folder = timm_folder(tmp_path / "x", vit((2, 8)), args, input_size=[3, 8, 32])
    convert(folder, tmp_path / "o.npz", "--to=npz")
    assert_computes(tmp_path / "o.npz", vit((2, 8)), grid=(2, 8))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b""])
def test_a_config_that_is_none_is_one_line(tmp_path, content):
    folder = timm_folder(tmp_path / "x", vit())
    (folder / "config.json").write_bytes(content)
    assert "config.json " in failure(folder, tmp_path / "o.npz", "--to=npz")


def test_the_epsilon_of_the_norms_is_as_said(tmp_path):
    file = save(tmp_path / "x.pth", vit())
    convert(file, tmp_path / "o.npz", "--to=npz", HEADS, "--norm-eps=0.05")
    assert_computes(tmp_path / "o.npz", vit(), norm_eps=0.05)
    folder = tmp_path / "hf"
    convert(tmp_path / "o.npz", folder, "--to=hf")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    save(folder / "model.safetensors", tensors)  # without what this project says of it
    convert(folder, tmp_path / "p.npz", "--to=npz")
    assert_computes(tmp_path / "p.npz", vit(), norm_eps=0.05)
    for wrong in ("0", "-1", "nan", "1"):
        message = failure(file, tmp_path / "q.npz", "--to=npz", HEADS, f"--norm-eps={wrong}")
        assert message.startswith("error: --norm-eps is ")


@pytest.mark.parametrize(
    "args",
    [
        {"act_layer": "gelu_tanh"},
        {"act_layer": "relu"},
        {"qk_norm": True},
        {"reg_tokens": 4},
        {"pre_norm": True},
        {"norm_layer": "rmsnorm"},
        {"mlp_layer": "swiglu"},
        {"rope_type": "cat"},
        {"wings": 2},
        {"depth": 3},
        {"embed_dim": 48},
        {"num_heads": "four"},
        {"img_size": [16]},
    ],
)
def test_a_timm_folder_of_another_computation_is_refused(tmp_path, args):
    (key,) = args
    folder = timm_folder(tmp_path / "x", vit(), args)
    message = failure(folder, tmp_path / "o.npz", "--to=npz")
    named = {"depth": "lacks blocks.2.", "embed_dim": "width", "num_heads": "heads"}
    named |= {"reg_tokens": "registers=0, and a config.json that says 4", "qk_norm": "qk_norm=F"}
    named |= {"norm_layer": "norm1.bias"}
    assert named.get(key, "size=[16]" if key == "img_size" else f"model_args.{key}") in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [123.675, 116.28, 103.53]}, "mean=123.675,116.28,103.53 is not of pixels in"),
        ({"std": [58.395, 57.12, 57.375]}, "; divide it by 255"),
        ({"std": [0.5, 0.0, 0.5]}, "std=0.5,0.0,0.5 is not of pixels in"),
        ({"std": [0.5, 0.5]}, "takes images of 3 channels"),
        ({"std": [0.5, None, 0.5]}, "has std=[0.5, None, 0.5]; restore it"),
        ({"mean": "imagenet"}, "has mean='imagenet'; restore it"),
    ],
)
def test_a_normalisation_of_other_pixels_is_refused(tmp_path, settings, message):
    folder = timm_folder(tmp_path / "x", vit(), **settings)
    assert message in failure(folder, tmp_path / "o.npz", "--to=npz")
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    "flag", ["--std=0,1,1", "--std=-1,1,1", "--std=1e-300,1,1", "--mean=nan,0,0", "--mean=0,0,116"]
)
def test_so_is_one_that_a_flag_says(tmp_path, flag):
    file = save(tmp_path / "x.safetensors", vit())
    message = failure(file, tmp_path / "o.npz", "--to=npz", HEADS, flag)
    assert message.startswith(f"error: {flag.partition('=')[0]}=") and "in [0, 1]" in message


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, suffix, value):
    tensors = vit()
    tensors["blocks.1.mlp.fc1.weight"][3, 5] = value
    file = save(tmp_path / f"x.{suffix}", tensors)
    message = failure(file, tmp_path / "o.npz", "--to=npz", HEADS)
    assert "NaN or infinities in blocks.1.mlp.fc1.weight" in message
    assert not (tmp_path / "o.npz").exists()


def test_every_dtype_of_safetensors_is_read(tmp_path):
    tensors, name = vit(), "blocks.0.mlp.fc1.weight"
    for kind, dtype in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("BF16", None)):
        low = tensors[name].astype(getattr(ml_dtypes, dtype or "bfloat16"))
        table = np.arange(3, dtype=np.int16)
        content = safetensors_bytes(tensors | {name: low, "table": table}, {name: kind})
        (tmp_path / "x.safetensors").write_bytes(content)
        convert(
            tmp_path / "x.safetensors", tmp_path / f"{kind}.npz", "--to=npz", HEADS, "--allow=table"
        )
        assert_computes(tmp_path / f"{kind}.npz", tensors | {name: low.astype(np.float64)})
    content = safetensors_bytes(tensors | {"phases": np.zeros(2, np.int64)}, {"phases": "C64"})
    (tmp_path / "x.safetensors").write_bytes(content)
    message = failure(tmp_path / "x.safetensors", tmp_path / "o.npz", "--to=npz", HEADS)
    assert "holds phases as C64, which cannot be read here" in message


def test_arrays_of_numpy_are_read_by_name(tmp_path):
    file = save(tmp_path / "x.npz", vit())
    convert(file, tmp_path / "o.npz", "--to=npz", HEADS)
    assert_computes(tmp_path / "o.npz", vit())
    with pytest.raises(ibot_jax.errors.UserError, match="no export of ibot_jax; convert it first"):
        ibot_jax.load(str(file))
    low = vit() | {"norm.bias": vit()["norm.bias"].astype(ml_dtypes.bfloat16)}
    convert(save(tmp_path / "low.npz", low), tmp_path / "p.npz", "--to=npz", HEADS)
    assert_computes(tmp_path / "p.npz", low)
    objects = {"cls_token": np.array([{}], object)}
    np.savez(tmp_path / "objects.npz", **objects)
    assert "cannot be read as arrays by name" in failure(
        tmp_path / "objects.npz", tmp_path / "q.npz", "--to=npz"
    )


def test_a_teacher_alone_starts_both(tmp_path):
    tensors = prefixed("backbone.", vit()) | prefixed("head.", projection_head())
    file = save(tmp_path / "x.pth", {"teacher": tensors, "epoch": 7})
    convert(file, tmp_path / "start", "--to=checkpoint", HEADS)
    for who in ("teacher", "student"):
        assert_computes(tmp_path / "start", vit(), weights=who)
        model, params = ibot_jax.load(str(tmp_path / "start"), weights=who, head=True)
        assert model.facts["weights"] == who
        kernel = params["head"]["mlp_1"]["kernel"]
        np.testing.assert_array_equal(kernel.T, projection_head()["mlp.2.weight"])
    # What this project writes of it for PyTorch is a teacher alone, too.
    convert(tmp_path / "start", tmp_path / "own.pth", "--to=pth", "--head")
    convert(tmp_path / "own.pth", tmp_path / "again", "--to=checkpoint")
    first, second = (
        ibot_jax.load(str(tmp_path / name), head=True, weights="student")[1]
        for name in ("start", "again")
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_heads_apart_there_and_back(weight_norm):
    config = tiny_config(
        head__separate=True,
        head__shared=False,
        head__shared_teacher=False,
        head__patch_hidden_dim=10,
        head__patch_prototypes=20,
        head__weight_norm=weight_norm,
    )
    size, head = config.data.global_size, build_head(config.head, "float32", teacher=False)
    backbone = build_backbone(config.model, size, "float32")
    params = jax.tree.map(np.asarray, init_params(backbone, head, jax.random.key(0), size, 3))
    tensors = original_names.to_torch(params, config.model.patch_size)
    assert "patch_head.mlp.0.weight" in tensors and "head.last_layer2.weight_v" not in tensors
    contents = Contents("made", {"": tensors})
    taken = take(contents, "", "made", Known(heads=2), head=True)
    jax.tree.map(np.testing.assert_array_equal, taken.params, params)
    for key in ("separate", "shared", "hidden_dim", "patch_hidden_dim", "patch_bottleneck_dim"):
        assert taken.config[f"head.{key}"] == config.head[key]
    assert taken.config["head.weight_norm"] == weight_norm
