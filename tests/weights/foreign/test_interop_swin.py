"""timm and transformers compute from a Swin's weights what this project does, and the other way.

Skipped where they are not installed (extra `interop`).
"""

import functools
import json

import jax
import numpy as np
import pytest
from foreign_weights import convert

import ibot_jax
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

torch = pytest.importorskip("torch")

SIZES = dict(patch_size=2, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=3)
# Trained at, and seen at: windows fill the grids, and of the last they do not.
FILLED, PADDED = [(24, 24), (36, 24)], [(20, 20), (28, 36)]


def random_weights(model):
    """Gives a PyTorch module random weights far from its start; returns it for evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_same_patches(path, model, patches_of, sizes):
    """Compares patches [B, h, w, D] and their mean with those of a PyTorch model."""
    ours, params = ibot_jax.load(str(path))
    data = ours.config.data
    for size in sizes:
        images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
        tokens = jax.jit(ours.features)(params, images)
        pixels = ((images / 255 - data.mean) / data.std).transpose(0, 3, 1, 2)
        with torch.no_grad():
            expected = patches_of(model, torch.tensor(pixels, dtype=torch.float32)).numpy()
        expected = expected.reshape(tokens.patches.shape)
        np.testing.assert_allclose(tokens.patches, expected, atol=2e-5)
        np.testing.assert_allclose(tokens.cls, expected.mean(axis=(1, 2)), atol=2e-5)


def of_timm(model, pixels):
    return model.forward_features(pixels)


def of_transformers(model, pixels):
    return model(pixels).last_hidden_state


def timm_model(**kwargs):
    timm = pytest.importorskip("timm")
    name = "swin_tiny_patch4_window7_224"
    model = timm.create_model(name, **SIZES, num_classes=0, strict_img_size=False, **kwargs)
    return random_weights(model)


def transformers_model(size):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(**SIZES, image_size=size)
    return random_weights(transformers.SwinModel(config, add_pooling_layer=False))


@pytest.fixture
def of_another_epsilon(tmp_path):
    """Returns a converted Swin whose norms are iBOT's, of 24 x 24 pixels."""
    state = {n: x.numpy() for n, x in timm_model(img_size=24).state_dict().items()}
    (tmp_path / "x.pth").write_bytes(torch_bytes(state))
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", "--grid=6x6", "--norm-eps=0.01")
    return tmp_path / "x.npz"


def test_from_timm(tmp_path):
    model = timm_model(img_size=24)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    (tmp_path / "x.pth").write_bytes(torch_bytes(state))
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", "--grid=6x6")
    assert_same_patches(tmp_path / "x.npz", model, of_timm, FILLED)


def test_to_timm(of_another_epsilon, tmp_path):
    """By the code of the card, without which its norms are others."""
    timm = pytest.importorskip("timm")
    said = convert(of_another_epsilon, tmp_path / "timm", "--to=timm")
    assert "its models have other norms unless told norm_layer=functools.partial(" in said
    card = (tmp_path / "timm/README.md").read_text()
    assert "norm_layer=functools.partial(torch.nn.LayerNorm, eps=0.01)" in card
    norm = functools.partial(torch.nn.LayerNorm, eps=0.01)
    model = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True, norm_layer=norm)
    assert_same_patches(of_another_epsilon, model.eval(), of_timm, FILLED[:1])


@pytest.mark.parametrize("sizes", [FILLED, PADDED], ids=["filled", "padded"])
def test_from_transformers(tmp_path, sizes):
    model = transformers_model(sizes[0][0])
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.npz", "--to=npz")
    assert_same_patches(tmp_path / "x.npz", model, of_transformers, sizes)


def test_to_transformers(of_another_epsilon, tmp_path):
    transformers = pytest.importorskip("transformers")
    said = convert(of_another_epsilon, tmp_path / "hf", "--to=hf")
    assert "its models have 1e-05 for LayerNorm's epsilon in some norms" in said
    assert json.loads((tmp_path / "hf/config.json").read_text())["layer_norm_eps"] == 0.01
    model, info = transformers.SwinModel.from_pretrained(
        tmp_path / "hf", add_pooling_layer=False, output_loading_info=True
    )
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.01
    assert_same_patches(of_another_epsilon, model.eval(), of_transformers, FILLED)


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_there_and_back_again_with_the_librarys_own_epsilon(tmp_path, to):
    """Then nothing is to be told: the folder alone computes the same."""
    state = {n: x.numpy() for n, x in timm_model(img_size=24).state_dict().items()}
    (tmp_path / "x.pth").write_bytes(torch_bytes(state))
    convert(tmp_path / "x.pth", tmp_path / "x.npz", "--to=npz", "--grid=6x6")
    assert "norm" not in convert(tmp_path / "x.npz", tmp_path / to, f"--to={to}").split("npz")[-1]
    if to == "timm":
        timm = pytest.importorskip("timm")
        model = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True)
    else:
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False)
    patches_of = of_timm if to == "timm" else of_transformers
    assert_same_patches(tmp_path / "x.npz", model.eval(), patches_of, FILLED[:1])
