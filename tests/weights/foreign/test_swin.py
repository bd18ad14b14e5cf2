"""A Swin of other projects: told by its names and tables, checked by its buffers, or refused."""

import json
import pathlib

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy
from foreign_weights import convert, failure, prefixed, projection_head
from PIL import Image
from tiny import TINY_SWIN, tiny_config

import ibot_jax
from ibot_jax.embed import __main__ as embed
from ibot_jax.kernels.layer_norm import LAYER_NORM_EPSILON
from ibot_jax.weights.foreign import swin
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

NAMES = json.loads((pathlib.Path(__file__).parents[2] / "data/foreign_names.json").read_text())
WORDS = "Swin of width 16, depths 2, 1, heads 2, 4, window 3, patch 2"
GRID = "--grid=6x6"  # 24 x 24 pixels


def random_tensors(whose):
    """Returns random numbers under the names that a project's own file has."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in NAMES[whose].items()}


def of_the_original():
    """Returns the same tensors under the names of iBOT: a merging is the end of a stage."""
    tensors = random_tensors("timm_swin")
    return {n.replace("layers.1.downsample", "layers.0.downsample"): x for n, x in tensors.items()}


def index(window):
    """Returns the row of a table by query and key, from the places of both."""
    rows, columns = np.divmod(np.arange(window**2), window)
    down, right = rows[:, None] - rows, columns[:, None] - columns
    return (down + window - 1) * (2 * window - 1) + right + window - 1


def mask(side, window, shift):
    """Returns -100 where two tokens of a shifted window were no neighbours before the shift."""
    place = np.roll(np.arange(side), -shift).reshape(-1, window)
    apart = np.abs(place[:, :, None] - place[:, None]) >= window  # [windows, query, key] of a side
    both = apart[:, None, :, None, :, None] | apart[None, :, None, :, None, :]
    windows = (side // window) ** 2
    return np.where(both.reshape(windows, window**2, window**2), -100, 0).astype(np.float32)


def buffers():
    """Returns those of windows of 3, shifted by 1 in the second block, on grids of 12 and 6."""
    blocks = ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0")
    tables = {f"{block}.attn.relative_position_index": index(3) for block in blocks}
    return tables, {"layers.0.blocks.1.attn_mask": mask(12, 3, 1)}


def save(path, tensors):
    path.write_bytes(torch_bytes(tensors))
    return path


def tree(path, **options):
    return ibot_jax.load(str(path), **options)[1]["backbone"]


def assert_same(params, tensors):
    """Compares some of each kind of tensor with iBOT's."""
    block = params["stages_1"]["blocks_0"]
    for ours, name in (
        (block["attn"]["qkv"]["kernel"].T, "layers.1.blocks.0.attn.qkv.weight"),
        (block["attn"]["relative_bias"], "layers.1.blocks.0.attn.relative_position_bias_table"),
        (block["norm2"]["scale"], "layers.1.blocks.0.norm2.weight"),
        (params["stages_0"]["merge"]["reduction"]["kernel"].T, "layers.0.downsample.reduction"),
        (params["patch_norm"]["bias"], "patch_embed.norm.bias"),
    ):
        name = name if name in tensors else f"{name}.weight"
        np.testing.assert_array_equal(ours, tensors[name])


@pytest.mark.parametrize("whose", ["timm_swin", "transformers_swin"])
def test_weights_that_other_projects_saved(tmp_path, whose):
    safetensors.numpy.save_file(random_tensors(whose), tmp_path / "x.safetensors")
    said = convert(tmp_path / "x.safetensors", tmp_path / "x.npz", "--to=npz", GRID)
    assert f"{WORDS}, 24x24 pixels, mean 0.485" in said and "no mask token in it" in said
    assert "epsilon" not in said.split("not told")[1]
    model, params = ibot_jax.load(str(tmp_path / "x.npz"))
    assert model.config.model.norm_eps == 1e-5  # of both libraries' Swin
    if whose == "timm_swin":
        assert_same(params["backbone"], of_the_original())


def test_a_checkpoint_of_the_original(tmp_path):
    """Student and teacher with heads, and a buffer of integers beside each table."""
    tables, _ = buffers()
    backbone = of_the_original() | tables
    whole = prefixed("backbone.", backbone) | prefixed("head.", projection_head())
    student = {"backbone.masked_embed": np.ones((1, 16), np.float32)} | whole
    checkpoint = {
        "student": prefixed("module.", student),
        "teacher": whole,
        "args": {"arch": "swin_custom", "window_size": 3},
        "epoch": 3,
    }
    file = save(tmp_path / "x.pth", checkpoint)
    said = convert(file, tmp_path / "start", "--to=checkpoint", GRID)
    assert "left out: 3 buffers of windows, as they are here\n" in said
    for who in ("student", "teacher"):
        assert_same(tree(tmp_path / "start", weights=who), backbone)
        model, params = ibot_jax.load(str(tmp_path / "start"), weights=who, head=True)
        assert model.config.model.norm_eps == LAYER_NORM_EPSILON
        np.testing.assert_array_equal(params["backbone"]["mask_token"], np.ones((1, 16)))
        np.testing.assert_array_equal(
            params["head"]["last_layer"]["v"].T, projection_head()["last_layer.weight_v"]
        )


def test_a_bare_backbone_says_what_it_does_not_tell(tmp_path):
    file = save(tmp_path / "x.pth", of_the_original())
    said = convert(file, tmp_path / "x.npz", "--to=npz", "--mean=0,0,0", "--std=1,1,1")
    assert (
        "not told, so as usual: images of 224x224 pixels (--grid), LayerNorm's epsilon of 1e-06 "
        "(--norm-eps)\n"
    ) in said
    convert(file, tmp_path / "y.npz", "--to=npz", GRID, "--norm-eps=1e-5")
    model, _ = ibot_jax.load(str(tmp_path / "y.npz"))
    assert (model.config.model.norm_eps, model.config.data.global_size) == (1e-5, (24, 24))


@pytest.mark.slow
def test_a_converted_swin_is_embedded_and_becomes_a_program(tmp_path):
    """With the epsilon of its file; all three give the same features."""
    safetensors.numpy.save_file(random_tensors("timm_swin"), tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "x.npz", "--to=npz", GRID)
    convert(tmp_path / "x.npz", tmp_path / "x.stablehlo", "--to=stablehlo")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
    model, params = ibot_jax.load(str(tmp_path / "x.npz"))
    expected = jax.jit(model.features)(params, pixels)
    patches = np.reshape(expected.patches, (2, 36, 32))

    program = jax.export.deserialize(bytearray((tmp_path / "x.stablehlo").read_bytes()))
    found = program.call(pixels)
    np.testing.assert_allclose(found["class"], expected.cls, atol=1e-5)
    np.testing.assert_allclose(found["patch"], patches, atol=1e-5)

    arguments = [f"--from={tmp_path}/x.npz", f"--data={tmp_path}/images", "--resize=24"]
    assert embed.main([*arguments, f"--out={tmp_path}/f.npz", "--patches", "--workers=1"]) == 0
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["class"], expected.cls, atol=1e-5)
        np.testing.assert_allclose(found["patches"], patches, atol=1e-5)


def test_a_file_of_swins_authors_holds_masks_of_windows(tmp_path):
    tables, masks = buffers()
    tensors = of_the_original() | tables | masks
    file = save(tmp_path / "x.pth", {"model": tensors})
    said = convert(file, tmp_path / "x.npz", "--to=npz", GRID)
    assert "PyTorch weights with names of Swin's authors" in said
    assert "left out: 4 buffers of windows" in said
    assert ibot_jax.load(str(tmp_path / "x.npz"))[0].config.model.norm_eps == 1e-5
    assert_same(tree(tmp_path / "x.npz"), tensors)
    message = failure(file, tmp_path / "y.npz", "--to=npz", "--grid=3x3")
    assert "has layers.0.blocks.1.attn_mask, which is not that of windows of 3" in message


def test_an_index_of_another_order_is_refused(tmp_path):
    tables, _ = buffers()
    name = "layers.1.blocks.0.attn.relative_position_index"
    file = save(tmp_path / "x.pth", of_the_original() | tables | {name: tables[name].T.copy()})
    message = failure(file, tmp_path / "x.npz", "--to=npz", GRID, "--allow=*")
    assert f"has {name}, which is not that of windows of 3 tokens" in message


def test_smaller_windows_tell_the_size(tmp_path):
    """The last stage has 2 x 2 tokens, for its windows are no larger: 8 x 8 pixels."""
    tensors = of_the_original()
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    tensors[name] = np.ones((9, 4), np.float32)
    file = save(tmp_path / "x.pth", tensors)
    message = failure(file, tmp_path / "x.npz", "--to=npz", GRID)
    assert f"its {name} has shape (9, 4), where (25, 4) would fit" in message
    said = convert(file, tmp_path / "x.npz", "--to=npz")
    assert f"{WORDS}, 8x8 pixels" in said and "(--grid)" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.1.blocks.0.attn.qkv.bias": None}, "lacks layers.1.blocks.0.attn.qkv.bias"),
        ({"layers.0.downsample.norm.weight": None}, "lacks layers.0.downsample.norm.weight"),
        ({"absolute_pos_embed": (1, 4)}, "holds absolute_pos_embed besides, with which no model"),
        ({"layers.0.blocks.0.attn.logit_scale": (2, 1)}, "attn.logit_scale besides"),  # Swin V2
        ({"layers.1.downsample.norm.weight": (4,)}, "holds layers.1.downsample.norm.weight"),
        ({"head.weight": (5, 32)}, "--allow='head.weight'"),
        (
            {"layers.0.blocks.0.attn.relative_position_bias_table": (15, 2)},
            "of shape (15, 2), which is of no square windows",
        ),
        (
            {"layers.1.blocks.0.attn.relative_position_bias_table": (25, 3)},
            "3 heads in stage 1, which do not divide its width, 32",
        ),
    ],
)
def test_what_is_no_such_swin_is_refused_by_name(tmp_path, change, message):
    tensors = of_the_original()
    for name, shape in change.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.ones(shape, np.float32)
    assert message in failure(save(tmp_path / "x.pth", tensors), tmp_path / "y", "--to=npz", GRID)


def timm_folder(path, **args):
    path.mkdir()
    safetensors.numpy.save_file(random_tensors("timm_swin"), path / "model.safetensors")
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "model_args": {"window_size": 3, "depths": [2, 1], "patch_size": 2} | args,
        "pretrained_cfg": {"input_size": [3, 24, 24]},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"img_size": [28, 28]}, "timm shifts windows before it pads, and those of 3 tokens do"),
        ({"always_partition": True}, "model_args.always_partition=True"),
        ({"head_dim": 32}, "model_args.head_dim=32"),
        ({"num_heads": [4, 2]}, "stage_heads=[2, 4], and a config.json that says [4, 2]"),
        ({"depths": [2, 2]}, "lacks layers.1.blocks.1."),
    ],
)
def test_a_timm_folder_of_another_computation_is_refused(tmp_path, args, message):
    folder = timm_folder(tmp_path / "timm", **args)
    assert message in failure(folder, tmp_path / "x.npz", "--to=npz")


@pytest.mark.parametrize(
    ("size", "depths", "otherwise"),
    [
        ((24, 24), (2, 2), ""),
        ((12, 12), (2, 2), ""),  # one window in the last stage
        ((12, 24), (2, 1), ""),  # and nothing to shift
        ((12, 24), (2, 2), "along the longer side of a grid of 3x6"),
        ((28, 28), (1, 1), "do not fill a grid of 14x14"),
    ],
)
def test_when_timm_computes_the_same(size, depths, otherwise):
    config = tiny_config(**TINY_SWIN | {"model__stage_depths": depths})
    found = swin.otherwise_in_timm(config.model, size)
    assert otherwise in found and bool(otherwise) == bool(found)


def transformers_folder(path, **changes):
    path.mkdir()
    safetensors.numpy.save_file(random_tensors("transformers_swin"), path / "model.safetensors")
    config = {"model_type": "swin", "image_size": 24, "patch_size": 2, "embed_dim": 16}
    config |= {"depths": [2, 1], "num_heads": [2, 4], "window_size": 3} | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings=True; here it is False"),
        ({"layer_norm_eps": 1e-6}, "transformers has 1e-05 in the other norms of a Swin"),
        ({"embed_dim": 8}, "width=16, and a config.json that says 8"),
    ],
)
def test_a_folder_of_transformers_of_another_computation_is_refused(tmp_path, changes, message):
    assert f"{WORDS}, 24x24" in convert(
        transformers_folder(tmp_path / "hf"), tmp_path / "y.npz", "--to=npz"
    )
    folder = transformers_folder(tmp_path / "changed", **changes)
    assert message in failure(folder, tmp_path / "x.npz", "--to=npz")


def test_windows_of_several_sizes_do_not_go_to_transformers(tmp_path):
    tensors = of_the_original()
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    file = save(tmp_path / "x.pth", tensors | {name: np.ones((9, 4), np.float32)})
    message = failure(file, tmp_path / "hf", "--to=hf")
    assert "windows of one size in all stages, not of 2 and 3 tokens; use --to=pth" in message
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(("to", "whose"), [("timm", "timm_swin"), ("hf", "transformers_swin")])
def test_names_and_shapes_are_those_of_the_other_projects(tmp_path, to, whose):
    file = save(tmp_path / "x.pth", of_the_original())
    convert(file, tmp_path / "x.npz", "--to=npz", GRID, "--norm-eps=1e-6")
    convert(tmp_path / "x.npz", tmp_path / to, f"--to={to}")
    tensors = safetensors.numpy.load_file(tmp_path / to / "model.safetensors")
    assert {name: list(x.shape) for name, x in tensors.items()} == NAMES[whose]
    card = (tmp_path / to / "README.md").read_text()
    assert {"timm": "torch.nn.LayerNorm, eps=1e-06)", "hf": "module.eps = 1e-06"}[to] in card
