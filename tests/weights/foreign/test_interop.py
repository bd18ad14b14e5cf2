"""timm, transformers and PyTorch compute from converted weights what this project does.

Skipped where they are not installed (extra `interop`).
"""

import json
import pathlib

import jax
import numpy as np
import pytest
from foreign_views import SIZES, noise

import ibot_jax
from ibot_jax.convert.__main__ import main
from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

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
    transformers = pytest.importorskip("transformers")
    path, _, images, tokens = weights
    assert main([str(path), f"{tmp_path}/hf", "--to=hf"]) == 0
    model = transformers.ViTModel.from_pretrained(f"{tmp_path}/hf", add_pooling_layer=False).eval()
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
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
    assert isinstance(model, transformers.ViTModel)

    def make(image):
        return np.asarray(processor(image, return_tensors="pt")["pixel_values"][0])

    for size, far in differences(exported, make):
        assert far < 1e-3 or (told and odd_middle(view, size))
