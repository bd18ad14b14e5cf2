"""Weights come through every format as they were, and what is not whole is refused by name."""

import functools
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from foreign_weights import convert, failure, vit
from runs import save_run, started
from tiny import TINY_SWIN, tiny_config, tiny_plan

import ibot_jax
from ibot_jax.methods.state import teacher_params
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import make_init
from ibot_jax.tools.replaying.recording import Recording
from ibot_jax.tools.replaying.settings import run_of
from ibot_jax.weights.foreign import original_names
from ibot_jax.weights.foreign.files.torch_reader import read_torch
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

ROOT = pathlib.Path(__file__).parent.parent.parent
OWN = ("orbax", "npz", "safetensors")
FOREIGN = ("pth", "timm", "hf")
SUFFIXES = {"npz": ".npz", "safetensors": ".safetensors", "pth": ".pth", "stablehlo": ".stablehlo"}


def make_run(folder, seed, **overrides):
    """Returns the workdir of a run with one checkpoint, teacher and student unlike."""
    config = tiny_config(**overrides)
    state = jax.jit(make_init(config, tiny_plan(config)))(jax.random.key(seed))
    noise = np.random.default_rng(seed)

    def move(x):
        floating = np.issubdtype(x.dtype, np.floating)
        return x + noise.normal(0, 0.1, x.shape).astype(x.dtype) if floating else x

    state = state.replace(params=jax.tree.map(move, state.params), step=state.step + 3)
    state = state.replace(opt_state=jax.tree.map(move, state.opt_state))  # the teacher is in there
    state = jax.device_put(state, replicated(make_mesh()))
    return str(save_run(folder, config, state, knn_top1=40.0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("plain") / "run", 0)


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    """Not square, LayerScale, own mean, grey, and a head of its own for patches."""
    return make_run(
        tmp_path_factory.mktemp("unusual") / "run",
        1,
        model__layer_scale=0.5,
        data__global_size=(16, 24),
        data__channels=1,
        data__mean=(0.5,),
        data__std=(0.25,),
        head__shared=False,
        head__shared_teacher=False,
        head__patch_prototypes=10,
    )


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    """Of images that windows fill, as timm computes them."""
    path = tmp_path_factory.mktemp("swin") / "run"
    return make_run(path, 2, **TINY_SWIN, data__global_size=(24, 24))


def test_a_swin_is_written_as_an_export_and_by_the_originals_names(swin, tmp_path):
    own, original = tmp_path / "model.safetensors", tmp_path / "model.pth"
    for target in (own, original):
        convert(f"--from={swin}", f"--to={target.suffix[1:]}", f"--out={target}")
    assert_same_model(own, swin, head=False)
    model, params = ibot_jax.load(swin)
    tensors = read_torch(epath.Path(original))["teacher"]
    expected = original_names.to_torch(params, model.geometry.patch_size)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name].read(), tensor)


@pytest.mark.parametrize("to", [*OWN, *FOREIGN])
def test_a_swin_comes_there_and_back_again(swin, tmp_path, to):
    there, back = tmp_path / f"there{SUFFIXES.get(to, '')}", tmp_path / "back.npz"
    convert(swin, there, f"--to={to}")
    said = convert(there, back, "--to=npz")
    assert "Swin of width 16, depths 2, 1, heads 2, 4, window 3, patch 2" in said
    assert ("left out: 3 buffers of windows, as they are here\n" in said) == (to == "pth")
    assert_same_model(back, swin, head=False)


@pytest.fixture(params=["plain", "unusual"])
def run(request):
    return request.getfixturevalue(request.param)


def images_for(model, number=3):
    shape = (number, *model.config.data.global_size, model.config.data.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@functools.lru_cache
def feature_fn(run):
    """Returns the function from parameters and images to tokens, compiled once for a model."""
    model, _ = ibot_jax.load(run)
    return jax.jit(model.tokens)


def assert_same_model(path, run, *, head, atol=0.0):
    """Compares description, parameters and features with those of the run's teacher."""
    model, params = ibot_jax.load(str(path), head=head)
    first, expected = ibot_jax.load(run, head=head)
    assert model.facts["step"] == 3 and model.facts["knn_top1"] == 40.0
    assert model.config.data.to_dict() | {"source": ""} == first.config.data.to_dict() | {
        "source": "",
        "local_views": model.config.data.local_views,
        "local_size": model.config.data.local_size,
    }
    mask_tokens = [tree["backbone"].pop("mask_token") for tree in (params, expected)]
    if head:
        np.testing.assert_array_equal(*mask_tokens)
    if not atol:
        jax.tree.map(np.testing.assert_array_equal, params, expected)
    images = images_for(model)
    tokens = [
        feature_fn(source)({"backbone": tree["backbone"] | {"mask_token": mask_tokens[1]}}, images)
        for source, tree in ((str(path) if atol else run, params), (run, expected))
    ]
    np.testing.assert_allclose(*tokens, atol=atol, rtol=0)


@pytest.mark.parametrize("to", [*OWN, *FOREIGN])
def test_there_and_back_again(run, tmp_path, to):
    head = ["--head"] if to in (*OWN, "pth") else []
    there, back = tmp_path / f"there{SUFFIXES.get(to, '')}", tmp_path / "back.npz"
    convert(run, there, f"--to={to}", *head)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        {there.name} | ({f"{there.name}.md"} if to in SUFFIXES else set())
    )
    said = convert(there, back, "--to=npz", *head)
    assert "ViT of width 16, depth 2, 2 heads, patch 4" in said
    # Gains of LayerScale become part of the layers before them.
    scaled = to == "hf" and "unusual" in run
    assert_same_model(back, run, head=bool(head), atol=1e-5 if scaled else 0.0)


def test_the_student_too(plain, tmp_path):
    convert(plain, tmp_path / "x.pth", "--to=pth", "--weights=student")
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", "--weights=student")
    _, params = ibot_jax.load(str(tmp_path / "x.npz"))
    _, expected = ibot_jax.load(plain, weights="student")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    message = failure(tmp_path / "x.pth", tmp_path / "y.npz", "--to=npz")
    assert "x.pth holds no teacher, only the student" in message


def test_names_and_shapes_are_those_of_the_other_projects(plain, unusual, tmp_path):
    recorded = json.loads((ROOT / "tests/data/foreign_names.json").read_text())
    for to, name in (("timm", "timm"), ("hf", "transformers_vit")):
        convert(plain, tmp_path / to, f"--to={to}")
        tensors = safetensors.numpy.load_file(tmp_path / to / "model.safetensors")
        assert {name: list(x.shape) for name, x in tensors.items()} == recorded[name]
    convert(unusual, tmp_path / "scaled", "--to=timm")
    tensors = safetensors.numpy.load_file(tmp_path / "scaled/model.safetensors")
    assert tensors.keys() == recorded["timm_layer_scale"].keys()


@pytest.mark.parametrize(
    "whose", ["timm", "timm_layer_scale", "transformers_vit", "transformers_dinov2"]
)
def test_weights_that_other_projects_saved(tmp_path, whose):
    """Random numbers under their names, without anything that says more."""
    shapes = json.loads((ROOT / "tests/data/foreign_names.json").read_text())[whose]
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    said = convert(tmp_path / "x.safetensors", tmp_path / "x.npz", "--to=npz", "--heads=2")
    assert "ViT of width 16, depth 2, 2 heads, patch 4, 16x16 pixels, mean 0.485" in said
    assert ("no mask token in it" in said) == (whose != "transformers_dinov2")
    model, params = ibot_jax.load(str(tmp_path / "x.npz"))
    backbone = params["backbone"]
    assert bool(model.config.model.layer_scale) == (
        whose in ("timm_layer_scale", "transformers_dinov2")
    )
    assert backbone["cls_token"].dtype == np.float32
    query = "encoder.layer.1.attention.attention.query.weight"
    expected = tensors.get("blocks.1.attn.qkv.weight", tensors.get(query)).T
    ours = backbone["blocks_1"]["attn"]["qkv"]["kernel"][:, : expected.shape[1]]
    np.testing.assert_array_equal(ours, expected)


@pytest.fixture
def original(tmp_path, step_small):
    """Writes the original's full checkpoint of a recorded run, after its first epoch."""
    recording = Recording(step_small)
    student, teacher = (recording.below(f"epoch1/{who}/") for who in ("student", "teacher"))
    center, patch_center = recording["epoch1/center"], recording["epoch1/patch_center"]
    tree = {
        "student": {f"module.{name}": tensor for name, tensor in student.items()},
        "teacher": teacher,
        "epoch": 1,
        "args": {"arch": "vit_custom", "lr": 3},
        "optimizer": {"state": {}},
        "ibot_loss": {"center": center[None], "center2": patch_center[None, None]},
    }
    (tmp_path / "checkpoint.pth").write_bytes(torch_bytes(tree))
    return tmp_path / "checkpoint.pth", recording


def test_a_run_starts_where_a_published_checkpoint_ends(original, tmp_path):
    path, recording = original
    config, plan = run_of(recording)
    heads = config.model.heads
    said = convert(path, tmp_path / "start", "--to=checkpoint", f"--heads={heads}")
    assert "left out: epoch, args, optimizer\n" in said
    with jax.enable_x64(True):
        state = jax.jit(make_init(config, plan))(jax.random.key(0))
        state = jax.device_put(state, replicated(make_mesh()))
        state, _ = started(tmp_path / "start", config, state)
    for kind, name in (("class", "center"), ("patch", "patch_center")):
        np.testing.assert_array_equal(state.buffers["centers"][kind], recording[f"epoch1/{name}"])
    for who, params in (("student", state.params), ("teacher", teacher_params(state))):
        recorded = recording.below(f"epoch1/{who}/")
        np.testing.assert_array_equal(
            params["backbone"]["cls_token"], recorded["backbone.cls_token"]
        )
        kernel = params["head"]["last_layer"]["v"]
        np.testing.assert_array_equal(kernel.T, recorded["head.last_layer.weight_v"])
    masks = (params["backbone"]["mask_token"] for params in (state.params, teacher_params(state)))
    np.testing.assert_array_equal(*masks)
    for who in ("student", "teacher"):
        _, params = ibot_jax.load(str(tmp_path / "start"), weights=who)
        kernel = params["backbone"]["blocks_0"]["mlp"]["fc1"]["kernel"]
        recorded = recording[f"epoch1/{who}/backbone.blocks.0.mlp.fc1.weight"]
        np.testing.assert_array_equal(kernel.T, recorded)


def test_one_set_of_weights_starts_student_and_teacher(plain, tmp_path):
    convert(plain, tmp_path / "x.npz", "--to=npz", "--head")
    convert(tmp_path / "x.npz", tmp_path / "start", "--to=checkpoint")
    trees = [
        ibot_jax.load(str(tmp_path / "start"), weights=w, head=True)[1]
        for w in ("student", "teacher")
    ]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    assert "needs no conversion: --config.init_from=" in failure(
        plain, tmp_path / "y", "--to=checkpoint"
    )


def test_recorded_checkpoint_of_pytorch(reference, tmp_path):
    said = convert(
        reference("checkpoint.pth"), tmp_path / "x.npz", "--to=npz", "--head", "--heads=3"
    )
    assert "left out: the student, centers, optimizer, epoch, args\n" in said
    model, params = ibot_jax.load(str(tmp_path / "x.npz"), head=True)
    assert params["head"]["last_layer"]["v"].shape == (24, 80)
    assert not model.config.head.norm_last_layer
    assert "| `arch` | vit_custom |" in (tmp_path / "x.npz.md").read_text()


def edited(source, target, change):
    """Copies a folder's model.safetensors with changed tensors."""
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    change(tensors)
    target.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text((source / "config.json").read_text())
    return target


NAMES = {
    "timm": ("blocks.1.attn.qkv.bias", "norm.weight", "cls_token", "patch_embed.proj.weight"),
    "hf": (
        "encoder.layer.1.attention.attention.key.bias",
        "encoder.layer.0.layernorm_before.weight",
        "embeddings.position_embeddings",
        "encoder.layer.1.output.dense.weight",
    ),
}


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_a_tensor_that_is_removed_or_renamed_is_named(plain, tmp_path, to):
    convert(plain, tmp_path / "there", f"--to={to}")
    for name in NAMES[to]:
        removed = edited(tmp_path / "there", tmp_path / "removed", lambda t, n=name: t.pop(n))
        message = failure(removed, tmp_path / "x", "--to=npz")
        assert f"lacks {name}" in message

        def rename(tensors, name=name):
            tensors[f"{name}s"] = tensors.pop(name)

        renamed = edited(tmp_path / "there", tmp_path / "renamed", rename)
        message = failure(renamed, tmp_path / "x", "--to=npz")
        assert f"lacks {name}" in message
        required = "embed" in name or "cls_token" in name
        assert required or f"holds {name}s besides" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name",
    [
        "head.last_layer.weight_v",
        "head.last_layer2.weight_v",
        "head.mlp.4.bias",
        "backbone.norm.bias",
    ],
)
def test_a_head_that_is_not_whole_is_named(original, tmp_path, name):
    path, recording = original
    tensors = recording.below("epoch1/teacher/")
    del tensors[name]
    path.write_bytes(torch_bytes({"teacher": tensors}))
    heads = f"--heads={recording.settings['num_heads']}"
    assert f"lacks {name}" in failure(path, tmp_path / "x", "--to=npz", "--head", heads)


def test_what_may_be_missing_or_left_over_can_be_said(plain, tmp_path):
    convert(plain, tmp_path / "there", "--to=timm")

    def change(tensors):
        del tensors["blocks.0.attn.qkv.bias"]
        tensors["head.weight"] = np.zeros((10, 16), np.float32)

    changed = edited(tmp_path / "there", tmp_path / "changed", change)
    message = failure(changed, tmp_path / "x.npz", "--to=npz")
    assert "lacks blocks.0.attn.qkv.bias; it holds head.weight besides" in message
    assert "--allow='head.weight'" in message
    allow = ["--allow=head.*", "--allow=*.qkv.bias"]
    said = convert(changed, tmp_path / "x.npz", "--to=npz", *allow)
    assert "missing, with neutral values in their place: blocks.0.attn.qkv.bias\n" in said
    assert "left out: head.weight\n" in said
    _, params = ibot_jax.load(str(tmp_path / "x.npz"))
    assert not params["backbone"]["blocks_0"]["attn"]["qkv"]["bias"].any()
    # Nothing stands in for a matrix.
    without = edited(
        tmp_path / "there", tmp_path / "without", lambda t: t.pop("blocks.0.mlp.fc1.weight")
    )
    assert "lacks blocks.0.mlp.fc1.weight" in failure(
        without, tmp_path / "y", "--to=npz", "--allow=*"
    )


def test_another_shape_is_named(plain, tmp_path):
    convert(plain, tmp_path / "there", "--to=hf")
    name = "encoder.layer.1.intermediate.dense.weight"
    wide = edited(
        tmp_path / "there", tmp_path / "wide", lambda t: t.update({name: np.zeros((8, 16), "f")})
    )
    message = failure(wide, tmp_path / "x", "--to=npz")
    assert f"{name} has shape (8, 16), where (64, 16) would fit" in message


def hf_config(**changes):
    return json.dumps({"model_type": "vit", "num_attention_heads": 2} | changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"hello", "is no .pth, .safetensors or .npz file"),
        ("x.npz", b"hello", "is no export of ibot_jax, or is damaged"),
        ("x.safetensors", b"hello", "is no safetensors file, or is damaged"),
        ("x.pth", b"\x80\x02N.", "was written before PyTorch 1.6"),
        ("x.pth", torch_bytes({"epoch": 3}), "does not hold tensors by name: 'epoch' is a int"),
        (
            "x.pth",
            torch_bytes(
                {"model": {"layers.0.blocks.0.attn.relative_position_bias_table": np.ones(3, "f")}}
            ),
            "does not hold the Swin Transformer that it looks like: it lacks patch_embed.proj",
        ),
        (
            "x.pth",
            torch_bytes({"conv1.weight": np.ones(3, "f")}),
            "no Vision Transformer, nor a Swin: its first names are conv1.weight",
        ),
        ("x.pth", b"PK\x05\x06" + bytes(18), "was not written by torch.save"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in failure(tmp_path / name, tmp_path / "out", "--to=npz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "lacks config.json, which tells the architecture"),
        ("{", "config.json is no JSON"),
        (hf_config(model_type="beit"), "model_type='beit'; only vit, dinov2, "),
        (hf_config(hidden_act="relu"), "hidden_act='relu'; here it is 'gelu' always"),
        (
            hf_config(num_attention_heads=3),
            "says 3 attention heads, which do not divide the width of 16",
        ),
        (hf_config(num_hidden_layers=3), "lacks encoder.layer.2."),
    ],
)
def test_a_wrong_folder_is_one_line(plain, tmp_path, config, message):
    convert(plain, tmp_path / "there", "--to=hf")
    wrong = edited(tmp_path / "there", tmp_path / "wrong", lambda tensors: None)
    (wrong / "config.json").unlink() if config is None else (wrong / "config.json").write_text(
        config
    )
    assert message in failure(wrong, tmp_path / "out", "--to=npz")


def test_wrong_arguments_are_one_line(plain, tmp_path):
    out = tmp_path / "x"
    assert "does not exist" in failure(tmp_path / "nowhere", out, "--to=npz")
    assert "invalid choice: 'onnx'" in failure(plain, out, "--to=onnx")
    for to in ("timm", "hf", "stablehlo"):
        assert "has no place for the projection head" in failure(plain, out, f"--to={to}", "--head")
    assert "'a,b' is no list of numbers" in failure(plain, out, "--to=npz", "--mean=a,b")
    assert "is no report" in failure(plain, out, "--to=npz", f"--report={plain}/config.json")
    out.mkdir()
    assert f"--out={out} exists" in failure(plain, out, "--to=hf")
    assert "exists and is not a file" in failure(plain, out, "--to=pth", "--overwrite")
    (out / "thesis.tex").touch()
    assert "holds more than an earlier export" in failure(plain, out, "--to=hf", "--overwrite")
    weights = vit()
    (tmp_path / "x.pth").write_bytes(torch_bytes(weights))
    assert "say so by --heads=N" in failure(tmp_path / "x.pth", tmp_path / "y", "--to=npz")
    (tmp_path / "x.pth").write_bytes(torch_bytes(weights | {"pos_embed": np.ones((1, 4, 32), "f")}))
    assert "4 positions: no class token and a square grid" in failure(
        tmp_path / "x.pth", tmp_path / "y", "--to=npz", "--heads=4"
    )
    for flag in ("--heads=2", "--grid=4x4", "--mean=0,0,0", "--std=1,1,1", "--allow=x"):
        assert "says all of its model; leave out" in failure(
            plain, tmp_path / "y", "--to=npz", flag
        )


def test_the_feature_extractor_runs_without_this_package(run, tmp_path):
    out = tmp_path / "features.stablehlo"
    convert(run, out, "--to=stablehlo")
    program = jax.export.deserialize(bytearray(out.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    model, params = ibot_jax.load(run)
    for number in (1, 3):
        images = images_for(model, number)
        features = program.call(images)
        tokens = feature_fn(run)(params, images)
        np.testing.assert_allclose(features["class"], tokens[:, 0], atol=1e-5)
        np.testing.assert_allclose(features["patch"], tokens[:, 1:], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("to", [*OWN, "timm", "checkpoint"])
def test_the_hash_of_the_card_is_found_as_it_says(plain, tmp_path, to):
    """In another process that cannot import this package."""
    source = plain
    if to == "checkpoint":
        source = tmp_path / "with_head.npz"
        convert(plain, source, "--to=npz", "--head")
    name = f"mine.{to}" if to in SUFFIXES else "mine"
    convert(source, tmp_path / name, f"--to={to}")
    card = (tmp_path / (f"{name}.md" if to in SUFFIXES else "mine/README.md")).read_text()
    section = card.split("## Weights\n")[1]
    digest = re.search(r"^    ([0-9a-f]{64})$", section, re.MULTILINE).group(1)
    snippet = section.split("and how to find it again:\n")[1].replace("\n    ", "\n")
    blocked = "import sys; sys.modules['ibot_jax'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + snippet], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.returncode) == (digest, 0), done.stderr


def test_the_readme_runs_a_program_without_this_package(plain, tmp_path):
    convert(plain, tmp_path / "features.stablehlo", "--to=stablehlo")
    text = (ROOT / "docs/weights.md").read_text()
    snippet = next(
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "jax.export" in block
    )
    blocked = "import sys; sys.modules['ibot_jax'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + snippet], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(5, 16) (5, 16, 16)\n"
