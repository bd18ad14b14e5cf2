"""timm, transformers and PyTorch compute from converted weights what this project does.

Skipped where they are not installed (extra `interop`).
"""

import json
import pathlib

import jax
import numpy as np
import pytest

import ibot_jax
from ibot_jax.convert.__main__ import main
from ibot_jax.convert.torch_writer import torch_bytes

torch = pytest.importorskip("torch")
NAMES = pathlib.Path(__file__).parent.parent / "data/foreign_names.json"


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
