"""timm, transformers and PyTorch compute from converted weights what this project does.

Skipped where they are not installed (extra `interop`).
"""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from foreign_views import SIZES, noise
from foreign_weights import convert, own_vit

import ibot_jax
from ibot_jax.convert.__main__ import main
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes
from ibot_jax.weights.foreign.preprocessing import from_transformers, to_timm

torch = pytest.importorskip("torch")
NAMES = pathlib.Path(__file__).parents[2] / "data/foreign_names.json"


@pytest.fixture(scope="module", params=["timm", "timm_layer_scale"])
def weights(request, tmp_path_factory):
    """Returns an npz of random weights, their tensors, normalised images and their tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    shapes = json.loads(NAMES.read_text())[request.param]
    tensors = {n: rng.normal(0, 0.5, shape).astype(np.float32) for n, shape in shapes.items()}
    (folder / "x.pth").write_bytes(torch_bytes(tensors))
    assert main([f"{folder}/x.pth", f"{folder}/x.npz", "--to=npz", "--heads=2"]) == 0
    model, params = ibot_jax.load(f"{folder}/x.npz")
    images = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    tokens = np.asarray(jax.jit(model.tokens)(params, images))
    data = model.config.data
    normalized = ((images / 255 - data.mean) / data.std).transpose(0, 3, 1, 2)
    return folder / "x.npz", tensors, torch.tensor(normalized, dtype=torch.float32), tokens


def transformers_model(folder):
    """Returns what transformers loads from a folder, nothing of it missing or left over."""
    transformers = pytest.importorskip("transformers")
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    options = dict(add_pooling_layer=False) if kind == "ViTModel" else {}
    model, told = transformers.AutoModel.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert type(model).__name__ == kind
    assert not (told["missing_keys"] or told["unexpected_keys"] or told["mismatched_keys"])
    return model.eval()


def test_pytorch_loads_weights_only(weights, tmp_path):
    path, tensors, _, _ = weights
    assert main([str(path), f"{tmp_path}/y.pth", "--to=pth"]) == 0
    loaded = torch.load(tmp_path / "y.pth", weights_only=True)["teacher"]
    kernel = loaded["backbone.blocks.1.attn.qkv.weight"].numpy()
    np.testing.assert_array_equal(kernel, tensors["blocks.1.attn.qkv.weight"])


def test_timm(weights, tmp_path):
    timm = pytest.importorskip("timm")
    path, _, images, tokens = weights
    assert main([str(path), f"{tmp_path}/timm", "--to=timm"]) == 0
    model = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    with torch.no_grad():
        np.testing.assert_allclose(model.forward_features(images).numpy(), tokens, atol=1e-5)


def test_transformers(weights, tmp_path):
    path, _, images, tokens = weights
    assert main([str(path), f"{tmp_path}/hf", "--to=hf"]) == 0
    model = transformers_model(tmp_path / "hf")
    with torch.no_grad():
        np.testing.assert_allclose(model(images).last_hidden_state.numpy(), tokens, atol=1e-5)


VIEWS = {
    "default": view_of_run((16, 16), 18),
    "not square": view_of_run((16, 32), 36),
    "high": view_of_run((28, 16), 33),
    "awkward": view_of_run((20, 20), 29),
    "squash": CentralView((16, 16), (16, 16), "squash", "bilinear"),
    "from transformers": CentralView((16, 16), (24, 24), rounding="down"),
}


@pytest.fixture(params=VIEWS)
def exported(request, weights, tmp_path):
    """Returns an npz whose description has one of the views, and the view."""
    view = VIEWS[request.param]
    with np.load(weights[0]) as file:
        arrays = dict(file)
    description = json.loads(str(arrays.pop("config"))) | {"view": view.to_json()}
    np.savez(tmp_path / "seen.npz", config=json.dumps(description), **arrays)
    return tmp_path / "seen.npz", view


def differences(exported, make):
    """Yields, image by image, how far normalised pixels [C, H, W] are from the view, in levels."""
    path, view = exported
    model, _ = ibot_jax.load(str(path))
    assert model.view == view
    data = model.config.data
    for size in SIZES:
        levels = (make(noise(*size)).transpose(1, 2, 0) * data.std + data.mean) * 255
        yield size, np.abs(levels - np.asarray(view.cut(noise(*size)))).max()


def odd_middle(view, size):
    """Returns whether torchvision and transformers disagree on the middle of an image."""
    resized = view.resized(*size)
    return any((side - crop) % 4 == 3 for side, crop in zip(resized, view.size, strict=True))


def test_timm_makes_our_pixels(exported, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    assert main([str(exported[0]), f"{tmp_path}/timm", "--to=timm"]) == 0
    told = "begins one pixel after" in capsys.readouterr().out
    assert told == (exported[1].rounding == "down")
    model = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    for size, far in differences(exported, lambda image: transform(image).numpy()):
        assert far < 1e-3 or (told and odd_middle(exported[1], size))


def test_transformers_makes_our_pixels(exported, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    folder, view = f"{tmp_path}/hf", exported[1]
    assert main([str(exported[0]), folder, "--to=hf"]) == 0
    out = capsys.readouterr().out
    told = "begins one pixel before" in out
    options = dict(backend="pil")
    if "needs timm, whose transform" in out:
        pytest.importorskip("timm")
        options = {}
    assert told == (view.rounding == "even" and bool(options))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)
    transformers_model(pathlib.Path(folder))  # a model, though the wrapper's settings are there

    def make(image):
        return np.asarray(processor(image, return_tensors="pt")["pixel_values"][0])

    for size, far in differences(exported, make):
        assert far < 1e-3 or (told and odd_middle(view, size))


@pytest.fixture(scope="module", params=["dinov2", "dinov3"])
def heir(request, tmp_path_factory, pytestconfig):
    """Returns an npz of a ViT of an heir, of random weights, but for norms that DINOv3 unties."""
    folder = tmp_path_factory.mktemp(request.param)
    recorded = np.load(pytestconfig.rootpath / f"tests/data/{request.param}_vit_small.npz")
    tensors = {
        name.removeprefix("params/"): recorded[name]
        for name in recorded.files
        if name.startswith("params/") and "cls_norm" not in name
    }
    (folder / "x.pth").write_bytes(torch_bytes(tensors))
    convert(folder / "x.pth", folder / "x.npz", "--to=npz", "--heads=3")
    return folder / "x.npz"


def pixels_by_timm(folder, view):
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    config |= {"input_size": (3, *view.size), "crop_pct": to_timm(view)[0]["crop_pct"]}
    transform = timm.data.create_transform(**config, is_training=False)
    return transform, model.forward_features


def pixels_by_transformers(folder, view):
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    sizes = dict(
        size={"shortest_edge": view.resize[0]},
        crop_size={"height": view.size[0], "width": view.size[1]},
    )
    model = transformers_model(folder)
    return (
        lambda image: processor(image, return_tensors="pt", **sizes)["pixel_values"][0],
        lambda pixels: model(pixels).last_hidden_state,
    )


@pytest.mark.parametrize("wide", [False, True], ids=["square", "not square"])
@pytest.mark.parametrize(
    ("to", "theirs"), [("timm", pixels_by_timm), ("hf", pixels_by_transformers)], ids=["timm", "hf"]
)
def test_features_of_pictures_by_their_preprocessing(heir, tmp_path, to, theirs, wide):
    """Read back as the library's own, whose positions are resampled as it resamples them."""
    convert(heir, tmp_path / to, f"--to={to}")
    file = tmp_path / to / "model.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(file), file, {"format": "pt"})
    convert(tmp_path / to, tmp_path / "back.npz", "--to=npz")
    model, params = ibot_jax.load(str(tmp_path / "back.npz"))
    rows, columns = model.geometry.grid(model.config.data.global_size)
    size = model.geometry.size((rows, columns + wide))
    views = {"timm": view_of_run(size, 120), "hf": CentralView(size, (120, 120), rounding="down")}
    make, compute = theirs(tmp_path / to, view := views[to])
    images = [noise(150, 210), noise(190, 131)]
    ours = model.features(params, np.stack([np.asarray(view.cut(image)) for image in images]))
    with torch.no_grad():
        expected = compute(torch.stack([make(image) for image in images])).numpy()
    np.testing.assert_allclose(ours.sequence, expected, atol=1e-5)


BOTH = [
    dict(registers=2),
    dict(ffn="swiglu"),
    dict(qkv_bias="none"),
    dict(qkv_bias="masked_key"),
    dict(positions="rotary", qkv_bias="none"),
    dict(positions="rotary", qkv_bias="masked_key", registers=1, ffn="swiglu", hidden_dim=80),
]
WRITTEN = {
    "timm": [*BOTH, dict(qk_norm=True), dict(norm_kind="rms"), dict(qk_norm=True, norm_kind="rms")],
    "hf": [*BOTH, dict(positions="rotary")],
}


@pytest.mark.parametrize(
    ("to", "options"), [(to, options) for to in WRITTEN for options in WRITTEN[to]], ids=str
)
def test_options_that_are_written_are_computed(tmp_path, to, options):
    """With the epsilon that each library's own models have."""
    epsilon = 1e-5 if "positions" in options else 1e-6
    source, folder = own_vit(tmp_path / "own.npz", norm_eps=epsilon, **options), tmp_path / to
    convert(source, folder, f"--to={to}")
    if to == "timm":
        timm = pytest.importorskip("timm")
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().forward_features
    else:
        model = transformers_model(folder)
    pixels = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype("f")
    with torch.no_grad():
        theirs = model(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    theirs = getattr(theirs, "last_hidden_state", theirs).numpy()
    ours, params = ibot_jax.load(str(source))
    tokens = ours.features(params, pixels, floats="normalized").sequence
    np.testing.assert_allclose(tokens, theirs, atol=1e-5)


def test_dinov3s_own_processor_rounds_no_pixels(tmp_path):
    """It resizes floating-point numbers, so that pixels are within one level of those here."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    settings = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "size": {"height": 32, "width": 48},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__ == "DINOv3ViTImageProcessor"
    read = from_transformers(settings, "x.json")
    assert "rounds no pixels" in read.notes[0]
    for size in SIZES:
        pixels = np.asarray(processor(noise(*size), return_tensors="pt")["pixel_values"][0])
        levels = (pixels.transpose(1, 2, 0) * 0.5 + 0.5) * 255
        assert np.abs(levels - np.asarray(read.view.cut(noise(*size)))).max() < 1
