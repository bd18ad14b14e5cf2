"""A run starts from what people have: what is taken, what is adapted, what is refused."""

import hashlib
import io
import json
import pickle
import re
import shutil
import zipfile

import cli
import jax
import numpy as np
import pytest
from absl import flags
from foreign_weights import (
    convert,
    features,
    images_of,
    prefixed,
    projection_head,
    safetensors_bytes,
    vit,
)
from runs import save_run, started, taken
from tiny import TINY_SWIN, tiny_config, tiny_plan

import ibot_jax.convert.__main__
from ibot_jax import export
from ibot_jax.cli.config_file import parse_config
from ibot_jax.config import flatten
from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone
from ibot_jax.models.vit import resample_positions
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs import origin
from ibot_jax.runs.check import problems_at_hand
from ibot_jax.runs.completing import complete, contradictions
from ibot_jax.runs.training import jit_init, state_layout
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

# The model of `foreign_weights.vit`.
FOREIGN = dict(model__width=32, model__heads=4)


def fresh(config, seed=0):
    return jit_init(config, tiny_plan(config), make_mesh())(jax.random.key(seed))


def start(path, **overrides):
    """Returns what a run takes of a path, and what came from where; nothing is compiled."""
    config = tiny_config(**overrides)
    return taken(path, config, state_layout(config, tiny_plan(config), make_mesh()))


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def assert_is(backbone, tensors):
    """Compares a backbone with a few of its tensors by the names of DINO."""
    for block in (0, 1):
        kernel = backbone[f"blocks_{block}"]["attn"]["qkv"]["kernel"]
        np.testing.assert_array_equal(kernel.T, tensors[f"blocks.{block}.attn.qkv.weight"])
    np.testing.assert_array_equal(backbone["pos_embed"], tensors["pos_embed"])


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "vit.npz", **vit())
    return tmp_path / "vit.npz"


def test_a_backbone_alone_starts_both_and_heads_are_fresh(file):
    config = tiny_config(**FOREIGN)
    before = fresh(config)
    state, table = started(file, config, before)
    assert_is(state.params["backbone"], vit())
    assert_equal(teacher_params(state)["backbone"], state.params["backbone"])
    assert_equal(state.params["head"], before.params["head"])
    assert_equal(teacher_params(state)["head"], before.params["head"])
    assert_equal(state.buffers, before.buffers)
    assert int(state.step) == 0
    assert table["student"] == "backbone there; its head is fresh"
    assert table["student"] == table["teacher"]
    assert table["centers"] == "fresh"
    assert "no mask token" in table["notes"] and "--" not in table["notes"]
    layouts = [jax.tree.map(lambda x: x.sharding, s.params) for s in (state, before)]
    assert layouts[0] == layouts[1]


def test_student_teacher_heads_and_centers_of_the_original(tmp_path):
    """What the file does not tell, as the number of heads, is as the config says."""
    sets = {}
    for who, seed in (("student", 2), ("teacher", 4)):
        tensors = prefixed("backbone.", vit(seed=seed)) | prefixed("head.", projection_head(seed))
        tensors |= {f"head.last_layer2.{k}": tensors[f"head.last_layer.{k}"] for k in _LAST}
        sets[who] = tensors
    sets["student"]["backbone.masked_embed"] = np.ones((1, 32), np.float32)
    centers = np.arange(24, dtype=np.float32)
    (tmp_path / "checkpoint.pth").write_bytes(
        torch_bytes(sets | {"ibot_loss": {"center": centers[None], "center2": -centers[None]}})
    )
    head = dict(
        head__hidden_dim=48, head__bottleneck_dim=16, head__prototypes=24, head__patch_prototypes=24
    )
    weights, table = start(tmp_path / "checkpoint.pth", **FOREIGN, **head)
    for who in ("student", "teacher"):
        params = weights[who]
        assert_is(params["backbone"], vit(seed={"student": 2, "teacher": 4}[who]))
        np.testing.assert_array_equal(
            params["head"]["last_layer"]["v"].T, sets[who]["head.last_layer.weight_v"]
        )
        assert table[who] == f"backbone and head of the {who} there"
    np.testing.assert_array_equal(weights["centers"]["class"], centers)
    np.testing.assert_array_equal(weights["centers"]["patch"], -centers)

    with pytest.raises(UserError, match=r"another head: .*prototypes is 24 there and 12 .*\"fresh"):
        start(tmp_path / "checkpoint.pth", **FOREIGN)
    weights, table = start(tmp_path / "checkpoint.pth", **FOREIGN, init_head="fresh")
    assert_is(weights["teacher"]["backbone"], vit(seed=4))
    assert weights.keys() == {"student", "teacher"}
    assert weights["teacher"].keys() == {"backbone"}
    assert table["student"] == "backbone of the student there; its head is fresh"


_LAST = ("weight_g", "weight_v")


def heads_apart(weight_norm):
    """A teacher with a head of class tokens, and one of patches, as DINOv2 and DINOv3 have them."""
    tensors = prefixed("teacher.backbone.", vit())
    for seed, name in enumerate(("dino_head", "ibot_head")):
        head = projection_head(seed=seed, prototypes=24 + 6 * seed)
        if not weight_norm:
            head = {n: x for n, x in head.items() if n.partition("last_layer.")[2] not in _LAST}
            head["last_layer.weight"] = np.full((24 + 6 * seed, 16), 1.0 + seed, np.float32)
        tensors |= prefixed(f"teacher.{name}.", head)
    return tensors


HEADS_APART = dict(
    head__shared=False,
    head__shared_teacher=False,
    head__separate=True,
    head__hidden_dim=48,
    head__bottleneck_dim=16,
    head__prototypes=24,
    head__patch_prototypes=30,
)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_heads_apart_come_along(weight_norm, tmp_path):
    tensors = heads_apart(weight_norm)
    np.savez(tmp_path / "x.npz", **tensors)
    weights, table = start(
        tmp_path / "x.npz", **FOREIGN, **HEADS_APART, head__weight_norm=weight_norm
    )
    assert table["student"] == "backbone and head of the teacher there"
    head, leaf = weights["teacher"]["head"], "weight_v" if weight_norm else "weight"
    for theirs, ours in (("dino_head", ""), ("ibot_head", "patch_")):
        for layer, name in (("mlp.0.weight", "mlp_0"), ("mlp.4.weight", "mlp_2")):
            kernel = head[f"{ours}{name}"]["kernel"]
            np.testing.assert_array_equal(kernel.T, tensors[f"teacher.{theirs}.{layer}"])
        last = head[f"{ours}last_layer"]
        np.testing.assert_array_equal(last["v"].T, tensors[f"teacher.{theirs}.last_layer.{leaf}"])
        assert last.keys() == ({"v", "g"} if weight_norm else {"v"})


def test_heads_apart_do_not_start_from_a_shared_one(tmp_path):
    tensors = prefixed("teacher.backbone.", vit())
    np.savez(tmp_path / "x.npz", **tensors, **prefixed("teacher.head.", projection_head()))
    sizes = dict(HEADS_APART, head__patch_prototypes=24)
    found = r"another head: .*separate is False there and True here; .*init_head=\"fresh\""
    with pytest.raises(UserError, match=found):
        start(tmp_path / "x.npz", **FOREIGN, **sizes)
    _, table = start(tmp_path / "x.npz", **FOREIGN, **sizes, init_head="fresh")
    assert table["student"].endswith("its head is fresh")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the workdir of a run of three blocks, its config and its state."""
    config = tiny_config(model__depth=3)
    state = fresh(config, seed=1)
    moved = state.replace(opt_state=jax.tree.map(lambda x: x + 2, state.opt_state))
    return save_run(tmp_path_factory.mktemp("run"), config, moved), config, moved


def test_a_run_of_the_same_settings_starts_it_whole(run):
    workdir, config, state = run
    found, table = started(workdir, config, fresh(config, seed=2))
    assert_equal(found.params, state.params)
    assert_equal(teacher_params(found), teacher_params(state))
    assert table == {
        "student": "backbone and head of the student there",
        "teacher": "backbone and head of the teacher there",
        "centers": "those there",
    }


def test_other_sizes_patches_channels_and_blocks(run):
    workdir, _, state = run
    found, table = start(
        workdir,
        model__patch_size=8,
        model__depth=2,
        init_blocks="2,0",
        data__global_size=(32, 48),
        data__channels=4,
        data__mean=(0.5,) * 4,
        data__std=(0.5,) * 4,
        init_channels="red,green,blue,zero",
    )
    for params, there in (
        (found["student"], state.params),
        (found["teacher"], teacher_params(state)),
    ):
        backbone = params["backbone"]
        assert_equal(backbone["blocks_0"], there["backbone"]["blocks_2"])
        assert_equal(backbone["blocks_1"], there["backbone"]["blocks_0"])
        positions = resample_positions(there["backbone"]["pos_embed"], (4, 4), (4, 6))
        np.testing.assert_array_equal(backbone["pos_embed"], positions)
        kernel = backbone["patch_embed"]["proj"]["kernel"].reshape(8, 8, 4, 16)
        assert not np.any(kernel[:, :, 3])
        # A patch that shows one colour gives the token that it gave: no channel counts more.
        of_color = there["backbone"]["patch_embed"]["proj"]["kernel"].reshape(16, 3, 16).sum(axis=0)
        np.testing.assert_allclose(kernel[:, :, :3].sum(axis=(0, 1)), of_color, rtol=1e-5)
        assert_equal(params["head"], there["head"])
    assert table["blocks"] == "2,0 of the 3 there"
    assert table["channels"] == "of the 3 there 0, 1, 2, zero"
    assert table["patches"] == "4 pixels there, 8 here, by the pseudo-inverse of resizing"
    assert table["positions"] == "of 4x4 patches there, 4x6 here, resampled"
    assert "data.mean" not in table  # of other channels
    _, table = start(workdir, model__depth=3, data__mean=(0.4, 0.5, 0.6))
    assert table["data.mean"].endswith("(0.4, 0.5, 0.6) here: other pixels than it knows")


def test_a_converted_checkpoint_tells_its_model_too(tmp_path):
    tensors = prefixed("teacher.backbone.", vit()) | prefixed("teacher.head.", projection_head())
    np.savez(tmp_path / "x.npz", **tensors)
    convert(tmp_path / "x.npz", tmp_path / "start", "--to=checkpoint", "--heads=4")
    config = continued(tmp_path / "start")
    assert (config.model.heads, config.head.prototypes) == (4, 24)
    with pytest.raises(UserError, match="model.heads is 4 there and 2 here"):
        start(tmp_path / "start", **FOREIGN | dict(model__heads=2))
    (tmp_path / "start/config.json").write_text("{")
    with pytest.raises(UserError, match=r"start/config.json is no JSON; restore it"):
        start(tmp_path / "start", **FOREIGN)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            dict(model__width=32),
            r"holds a ViT of width 16, .* \(nearest to the size 'tiny'\): "
            r"model.width is 16 there and 32 here; set them so, or leave them: configs/continue.py",
        ),
        (dict(model__depth=2), r"model.depth=2 blocks, and .* has 3; say which .* by init_blocks"),
        (dict(init_blocks="0-1"), r"model.depth=3 blocks, and init_blocks='0-1' names 2"),
        (dict(init_blocks="0,1,3"), r"init_blocks='0,1,3' names blocks above 2, the last of"),
        (
            dict(data__channels=1, data__mean=(0.5,), data__std=(0.5,), init_channels="cyan"),
            r"init_channels='cyan' needs 1 entries, each one of .*red, green, blue; or expand",
        ),
        (TINY_SWIN, r"holds a ViT .* model.arch is 'vit' there and 'swin' here"),
        (dict(model__layer_scale=0.1), "model.layer_scale is 0.0 there and 0.1 here"),
        (dict(head__bottleneck_dim=4), "another head: head.bottleneck_dim is 8 there and 4 here"),
    ],
    ids=str,
)
def test_another_architecture_is_refused_in_a_line(run, overrides, message):
    config = tiny_config(**(dict(model__depth=3) | overrides))
    with pytest.raises(UserError, match=message) as error:
        started(run[0], config, None)
    assert "\n" not in str(error.value)


def test_channels_of_another_order(run):
    workdir, _, state = run
    found, table = start(workdir, model__depth=3, init_channels="blue,green,red")
    there, here = (
        params["backbone"]["patch_embed"]["proj"]["kernel"].reshape(16, 3, 16)
        for params in (state.params, found["student"])
    )
    np.testing.assert_array_equal(here, there[:, ::-1])
    assert table["channels"] == "of the 3 there 2, 1, 0"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(model__window=8), None),  # no larger than the grid of 8 x 8, either way
        (dict(data__global_size=(32, 32), model__patch_size=4, model__window=8), None),
        (dict(model__window=4), "nearest to the size 'tiny'.: model.window is 9 there and 4 here"),
        (dict(data__global_size=(32, 32)), "other windows than those of x, for 16x16 pixels; use"),
        (dict(init_blocks="0"), "init_blocks='0' is for blocks of a vit"),
        (dict(model__stage_heads=(1, 2)), r"model.stage_heads is \(2, 4\) there and \(1, 2\)"),
    ],
)
def test_windows_of_a_swin_are_compared_as_they_are(overrides, message):
    there = flatten(tiny_config(**TINY_SWIN | dict(model__window=9)))
    config = tiny_config(**TINY_SWIN | dict(model__window=9) | overrides)
    found = list(contradictions(flatten(config), origin.Origin("x", "", there)))
    assert [bool(re.search(message, text)) for text in found] == [True] if message else not found


@pytest.fixture
def hub(reference):
    """Returns a file of DINOv3 without positions: nothing in it tells a size of images."""
    return reference("checkpoints/dinov3_hub.pth")


def notes_of(path, *arguments):
    return "; ".join(completed(path, *arguments)[1].notes)


def test_what_is_said_is_not_noted_as_usual(file, hub):
    heads, size = "--config.model.heads=4", "--config.data.global_size=48,32"
    pixels = "--config.data.mean=0.1,0.2,0.3", "--config.data.std=0.5,0.5,0.4"
    usual = "a square grid of 4x4 patches (ibot_jax.convert --grid), ImageNet's mean (data.mean), "
    assert usual in notes_of(file, heads)
    assert "not told" not in notes_of(file, heads, size, *pixels)
    assert "224x224 pixels (data.global_size)" in notes_of(hub, "--config.model.heads=2")
    assert "pixels" not in notes_of(hub, "--config.model.heads=2", size)


def test_images_to_come_tell_a_grid_only_where_no_square_fits(tmp_path):
    """Positions of 4 x 4 patches are not those of the 2 x 8 in images here."""
    np.savez(tmp_path / "square.npz", **vit())
    np.savez(tmp_path / "wide.npz", **vit(grid=(2, 3)))
    for name, size, row in (
        ("square.npz", (8, 32), "of 4x4 patches there, 2x8 here, resampled"),
        ("wide.npz", (8, 12), None),
    ):
        config = continued(
            tmp_path / name,
            "--config.model.heads=4",
            f"--config.data.global_size={size[0]},{size[1]}",
        )
        layout = state_layout(config, tiny_plan(config), make_mesh())
        assert taken(tmp_path / name, config, layout)[1].get("positions") == row
    with pytest.raises(UserError, match=r"say which by ibot_jax.convert --grid=HxW"):
        continued(tmp_path / "wide.npz", "--config.model.heads=4")


def test_an_export_says_what_and_whose_it_is(run, tmp_path):
    export.export(str(run[0]), str(tmp_path / "own.npz"), to="npz")
    config = tiny_config(model__depth=3, init_from=str(tmp_path / "own.npz"))
    found = origin.read_origin(flatten(config))
    assert found.words({}) == f"weights of {tmp_path / 'own.npz'} (export of ibot_jax)"
    _, table = start(tmp_path / "own.npz", model__depth=3)
    assert table["student"] == "backbone of the teacher there; its head is fresh"


def without(name):
    return {n: tensor for n, tensor in vit().items() if n != name}


def changed(name, dtype=np.float32, value=None):
    tensor = vit()[name].astype(dtype)
    tensor.flat[3] = 1 if value is None else value
    return vit() | {name: tensor}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("blocks.1.attn.qkv.weight"), "lacks blocks.1.attn.qkv.weight"),
        (without("blocks.1.attn.qkv.bias"), "lacks blocks.1.attn.qkv.bias"),
        (changed("norm.weight", value=np.nan), "holds NaN or infinities in norm.weight"),
        (changed("cls_token", dtype=np.int16), "holds cls_token as int16; weights are floating"),
        (vit() | {"blocks.0.adapter.weight": np.ones(2)}, "adapter.weight besides, with which no"),
        ({"conv1.weight": np.ones((3, 3))}, "holds no Vision Transformer, nor a Swin"),
    ],
    ids=["missing", "missing bias", "nan", "dtype", "more", "other"],
)
def test_files_that_are_not_whole_are_refused_in_a_line(tmp_path, tensors, message):
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(UserError, match=rf"^init_from='.*x.npz'.*{message}") as error:
        started(tmp_path / "x.npz", tiny_config(**FOREIGN), None)
    assert "\n" not in str(error.value)


class Hostile:
    def __reduce__(self):
        return (print, ("called",))


def hostile():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"cls_token": Hostile()}, protocol=2))
        file.writestr("archive/version", "3")
    return archive.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", safetensors_bytes(vit())[:-7], "x.safetensors"),
        ("x.npz", b"PK\3\4 no archive", "x.npz"),
        ("x.pth", torch_bytes(vit())[:-99], "x.pth"),
        ("x.pth", hostile(), "print"),
        ("x.jpg", b"", "is no .pth, .safetensors or .npz file"),
    ],
    ids=["safetensors", "npz", "pth", "hostile", "other"],
)
def test_damaged_and_hostile_files_are_refused_in_a_line(tmp_path, name, content, message, capsys):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        started(tmp_path / name, tiny_config(**FOREIGN), None)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_what_reads_tokens_may_be_left_over(tmp_path):
    more = {"head.weight": np.ones((10, 32), np.float32), "fc.bias": np.ones(3, np.float32)}
    np.savez(tmp_path / "x.npz", **vit(), **more)
    _, table = start(tmp_path / "x.npz", **FOREIGN)
    assert "left out: head.weight, fc.bias" in table["notes"]


def test_processes_that_read_other_files_hear_of_it(file, monkeypatch):
    told = []
    monkeypatch.setattr(origin, "is_alone", lambda: False)
    monkeypatch.setattr(origin, "require_same", lambda *args: told.append(args))
    start(file, **FOREIGN)
    np.savez(file, **vit(seed=9))
    start(file, **FOREIGN)
    (first, what), (second, _) = told
    assert first != second and what == f"init_from={str(file)!r}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(model__depth=1), 'such as "0", where'),
        (dict(model__depth=5), 'such as "0-1,0-1,0", where'),
        (
            dict(model__depth=2, init_blocks="0"),
            "init_blocks='0' names 1; .* such as \"0-1\", where",
        ),
        (dict(model__depth=1, init_blocks="0-1"), 'such as "0", where'),
    ],
)
def test_blocks_that_are_proposed_are_there(file, overrides, message):
    with pytest.raises(UserError, match=f"model.depth=.* {message}"):
        start(file, **FOREIGN | overrides)
    number = overrides["model__depth"]
    proposed = re.search('such as "(.*)", where', message)[1]
    weights, _ = start(file, **FOREIGN | dict(model__depth=number, init_blocks=proposed))
    blocks = [name for name in weights["teacher"]["backbone"] if name.startswith("blocks_")]
    assert len(blocks) == number


# configs/continue.py


def completed(path, *arguments, workdir="/nowhere"):
    arguments = (f"--config.init_from={path}", "--config.data.source=digits", *arguments)
    config = parse_config(
        ["", "--config=continue", *arguments], flags.FlagValues(), check=problems_at_hand
    )
    return complete(config, str(workdir))


def continued(path, *arguments, workdir="/nowhere"):
    return completed(path, *arguments, workdir=workdir)[0]


def section_of(config, name):
    return {k: v for k, v in flatten(config).items() if k.startswith(f"{name}.")}


def test_the_weights_tell_the_model_and_how_it_sees(tmp_path, run):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(vit(gains=True)))
    config = dict(architecture="vit_small_patch16_224", num_classes=0)
    config["model_args"] = dict(
        embed_dim=32, depth=2, num_heads=4, patch_size=4, img_size=16, init_values=1e-5
    )
    config["pretrained_cfg"] = dict(
        mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1], input_size=[3, 16, 16]
    )
    (folder / "config.json").write_text(json.dumps(config))
    config = flatten(continued(folder))
    assert (config["model.width"], config["model.heads"], config["model.depth"]) == (32, 4, 2)
    assert (config["model.patch_size"], config["model.norm_eps"]) == (4, 1e-6)
    assert config["model.layer_scale"]
    assert (config["data.mean"], config["data.std"]) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (config["data.global_size"], config["data.local_size"]) == ((16, 16), (8, 8))
    assert config["knn.resize"] == 18
    assert config["head.prototypes"] == 8192  # there is none

    workdir, of_run, _ = run
    config = continued(workdir)
    assert section_of(config, "model") == section_of(of_run, "model")
    assert section_of(config, "head") == section_of(of_run, "head")
    assert config.data.mean == of_run.data.mean


def test_what_is_said_counts_where_it_can_be_adapted_and_else_is_refused(run, file):
    workdir = run[0]
    config = continued(
        workdir,
        "--config.data.global_size=48,32",
        "--config.model.patch_size=8",
        "--config.init_blocks=0,2",
    )
    assert (config.data.global_size, config.data.local_size) == ((48, 32), (24, 16))
    assert (config.model.patch_size, config.model.depth) == (8, 2)
    with pytest.raises(UserError, match="model.width is 16 there and 32 here; .*leave them: conf"):
        continued(workdir, "--config.model.width=32")
    with pytest.raises(UserError, match="needs data.channels=1 entries"):
        continued(workdir, "--config.data.channels=1")
    with pytest.raises(UserError, match=r"does not tell how many .* by --config.model.heads=N$"):
        continued(file)
    assert continued(file, "--config.model.heads=8").model.heads == 8


def test_a_checkpoint_without_its_config_tells_no_model(run, tmp_path):
    shutil.copytree(run[0] / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match="lacks config.json, which tells its model; restore it"):
        continued(tmp_path)


def test_a_run_that_goes_on_needs_the_weights_no_more(run, tmp_path):
    """Its own config tells the model."""
    config = continued("/gone", workdir=run[0])
    assert section_of(config, "model") == section_of(run[1], "model")
    assert config.data.local_size == run[1].data.local_size


def test_images_are_as_before(file):
    """The features of the state that starts are those of the file, in NumPy."""
    config = continued(file, "--config.model.heads=4", "--config.dtype=float32")
    weights, _ = taken(file, config, state_layout(config, tiny_plan(config), make_mesh()))
    images = images_of()
    module = build_backbone(config.model, config.data.global_size, "float32")
    seen = (images / 255 - config.data.mean) / config.data.std
    tokens = module.apply({"params": weights["student"]["backbone"]}, np.asarray(seen, np.float32))
    np.testing.assert_allclose(tokens.sequence, features(vit(), images), atol=2e-4)


@pytest.mark.slow
def test_my_folder_their_weights(file, tmp_path):
    """All that one has to say; again without the file; and what the card says of it."""
    workdir = tmp_path / "run"
    arguments = (
        "--config=configs/continue.py",
        f"--config.init_from={file}",
        "--config.data.source=digits",
        "--config.model.heads=4",  # which this file cannot tell
        *(argument for argument in cli.TINY if not argument.startswith(_OF_MODEL)),
        "--config.dtype=float32",
        "--config.duration=2 steps",
        "--config.loss.teacher_temp_warmup=1 steps",
        "--config.optim.warmup=1 steps",
        "--config.knn.every=",
        f"--workdir={workdir}",
    )
    status, out, err = cli.finish(cli.start(*arguments))
    assert status == 0, err
    assert "ViT of width 32, depth 2, 4 heads, patch 4" in out
    assert f"start      weights of {file} (NumPy arrays with names of iBOT or DINO)\n" in out
    assert "\n               student    backbone there; its head is fresh\n" in out
    recorded = json.loads((workdir / "config.json").read_text())
    assert recorded["model.width"] == 32 and recorded["data.local_size"] == [8, 8]

    export.export(str(workdir), str(tmp_path / "out.npz"), to="npz")
    ibot_jax.convert.__main__.main([str(tmp_path / "out.npz"), str(tmp_path / "x"), "--to=orbax"])
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    for card in ("out.npz.md", "x/README.md"):
        text = (tmp_path / card).read_text()
        assert f"| weights | {file} (NumPy arrays with names of iBOT or DINO) |" in text
        assert f"| SHA-256 of the file | {checksum} |" in text
        assert "| their licence | not stated in them |" in text
        assert "| teacher | backbone there; its head is fresh |" in text

    file.unlink()
    status, out, err = cli.finish(cli.start(*arguments))
    assert status == 0, err
    assert f"the run is complete; it began with the weights of {file}\n" in out

    others = "--config.init_from=others.npz", "--allow_config_change"
    status, out, err = cli.finish(cli.start(*arguments, *others))
    assert status == 0, err
    assert f"weights of {file}; init_from='others.npz' is not read\n" in out


@pytest.mark.slow
def test_a_run_that_loses_old_images_says_so(file, tmp_path):
    """With steps that no features survive."""
    status, out, err = cli.finish(
        cli.start(
            *cli.TINY,
            f"--config.init_from={file}",
            *("--config.model.width=32", "--config.model.depth=2", "--config.model.heads=4"),
            *("--config.model.patch_size=4", "--config.knn.old_source=digits"),
            *("--config.optim.lr=100", "--config.optim.warmup=0 steps", "--config.optim.clip=0"),
            *("--config.teacher_momentum=0.5", "--config.knn.max_test_per_class=0"),
            f"--workdir={tmp_path / 'run'}",
        )
    )
    assert status == 0, err
    (warning,) = re.findall(r"warning: at step (\d+), k-NN of the old images is ([\d.]+) %", err)
    first, *later = [row for row in cli.rows(tmp_path / "run") if "old_knn_top1" in row]
    assert (first["step"], later[0]["step"]) == (0, 5)
    assert warning == ("5", f"{later[0]['old_knn_top1']:.1f}")
    assert f"k-NN of old images {first['old_knn_top1']:.1f} % at initialisation" in out


@pytest.mark.parametrize(
    ("name", "heads", "model"),
    [
        ("checkpoints/hf_Dinov2Model", (), (24, 2, 2, 14)),
        ("checkpoints/timm_vit_small_patch14_dinov2.safetensors", (2,), (24, 2, 2, 14)),
        ("checkpoint.pth", (3,), (48, 2, 3, 8)),
    ],
)
def test_recorded_files_tell_their_models(name, heads, model, reference):
    path = reference(name)
    config = continued(path, *(f"--config.model.heads={number}" for number in heads))
    assert tuple(config.model[key] for key in ("width", "depth", "heads", "patch_size")) == model
    weights, _ = taken(path, config, state_layout(config, tiny_plan(config), make_mesh()))
    assert ("head" in weights["teacher"]) == (name == "checkpoint.pth")


def test_a_file_of_other_channels_that_says_nothing_of_pixels(tmp_path):
    """Mean and deviation in the config are of the images to come, and have their number."""
    name, tensors = "patch_embed.proj.weight", vit()
    np.savez(tmp_path / "four.npz", **tensors | {name: tensors[name][:, [0, 1, 2, 0]]})
    pixels = "--config.data.channels=3", "--config.data.mean=0.1,0.2,0.3"
    config = continued(
        tmp_path / "four.npz", *pixels, "--config.data.std=0.5,0.5,0.5", "--config.model.heads=4"
    )
    assert (config.data.channels, config.data.mean) == (3, (0.1, 0.2, 0.3))
    layout = state_layout(config, tiny_plan(config), make_mesh())
    _, table = taken(tmp_path / "four.npz", config, layout)
    assert table["channels"] == "of the 4 there mean, mean, mean"
    assert "data.mean" not in table


_OF_MODEL = ("--config=", "--config.model.", "--config.head.")
