"""A Vision Transformer of another project: its tensors by name, and its features, in NumPy alone.

It follows "An Image is Worth 16x16 Words" (arXiv 2010.11929) with the names of DINO's and timm's
files: width 32, two blocks, four heads, patches of 4 pixels.
"""

import contextlib
import io
import json
import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from ibot_jax.config import get_config
from ibot_jax.convert.__main__ import main
from ibot_jax.models.build import build_backbone

WIDTH, DEPTH, HEADS, PATCH = 32, 2, 4, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_LAYERS = {"attn.qkv": (96, 32), "attn.proj": (32, 32), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128)}


def vit(grid=(4, 4), seed=0, gains=False):
    """Returns tensors by name, float32."""
    rng = np.random.default_rng(seed)

    def normal(*shape, mean=0.0):
        return (mean + 0.2 * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "cls_token": normal(1, 1, WIDTH),
        "pos_embed": normal(1, 1 + grid[0] * grid[1], WIDTH),
        "patch_embed.proj.weight": normal(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(WIDTH),
        "norm.weight": normal(WIDTH, mean=1.0),
        "norm.bias": normal(WIDTH),
    }
    for block in range(DEPTH):
        for name, shape in _LAYERS.items():
            tensors[f"blocks.{block}.{name}.weight"] = normal(*shape)
            tensors[f"blocks.{block}.{name}.bias"] = normal(shape[0])
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{block}.{name}.weight"] = normal(WIDTH, mean=1.0)
            tensors[f"blocks.{block}.{name}.bias"] = normal(WIDTH)
        for name in ("ls1", "ls2") if gains else ():
            tensors[f"blocks.{block}.{name}.gamma"] = normal(WIDTH, mean=1.0)
    return tensors


def projection_head(seed=1, prototypes=24):
    """Returns the tensors of a DINO head, float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in {"mlp.0": (48, WIDTH), "mlp.2": (48, 48), "mlp.4": (16, 48)}.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    tensors["last_layer.weight_g"] = np.ones((prototypes, 1), np.float32)
    tensors["last_layer.weight_v"] = rng.standard_normal((prototypes, 16)).astype(np.float32)
    return tensors


def prefixed(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def features(tensors, images, grid=(4, 4), norm_eps=1e-6):
    """Returns the tokens [B, 1 + N, D] float64 of uint8 images [B, H, W, 3] of that grid."""
    t = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    x = (images / 255 - MEAN) / STD
    batch, (rows, columns) = len(x), grid
    x = x.reshape(batch, rows, PATCH, columns, PATCH, 3)
    x = np.einsum("brpcqk,dkpq->brcd", x, t["patch_embed.proj.weight"])
    x = x.reshape(batch, rows * columns, WIDTH) + t["patch_embed.proj.bias"]
    cls = np.broadcast_to(t["cls_token"], (batch, 1, WIDTH))
    x = np.concatenate([cls, x], axis=1) + t["pos_embed"]

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + norm_eps)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    for block in (f"blocks.{number}." for number in range(DEPTH)):
        parts = linear(norm(x, f"{block}norm1"), f"{block}attn.qkv")
        parts = parts.reshape(batch, -1, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 3, 1, 4)
        query, key, value = parts
        logits = query @ key.swapaxes(-1, -2) / math.sqrt(WIDTH // HEADS)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + linear(mixed, f"{block}attn.proj") * t.get(f"{block}ls1.gamma", 1)
        hidden = linear(norm(x, f"{block}norm2"), f"{block}mlp.fc1")
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        x = x + linear(hidden, f"{block}mlp.fc2") * t.get(f"{block}ls2.gamma", 1)
    return norm(x, "norm")


def images_of(grid=(4, 4), number=2):
    shape = (number, grid[0] * PATCH, grid[1] * PATCH, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def safetensors_bytes(tensors, dtypes=None):
    """Returns a safetensors file as its format says; `dtypes` names those that NumPy lacks."""
    kinds = {"float32": "F32", "int16": "I16", "int64": "I64", "uint16": "U16"}
    header, content = {}, b""
    for name, array in tensors.items():
        data = array.tobytes()
        header[name] = {
            "dtype": (dtypes or {}).get(name) or kinds[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def own_vit(path, **options):
    """Writes a ViT of this project with options, of random weights, as .npz; returns its path."""
    config, size = get_config(), (16, 16)
    config.model.update(patch_size=4, width=24, depth=1, heads=2, layer_scale=1.0, **options)
    module = build_backbone(config.model, size, "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, *size, 3), "f"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, "f") / 2, shapes["params"])
    description = {
        "model": {key: value for key, value in config.model.items() if key != "drop_path"},
        "global_size": size,
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "patch_grid": [4, 4],
        "weights": "teacher",
    }
    arrays = flatten_dict({"backbone": params}, sep="/")
    np.savez(path, config=json.dumps(description), **arrays)
    return path


def convert(*arguments):
    """Runs the command line of convert; returns what it printed."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        assert main([*map(str, arguments)]) == 0, screen.getvalue()
    return screen.getvalue()


def failure(*arguments):
    """Runs the command line of convert; returns the one line that it fails with."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*map(str, arguments)]) == 2, out.getvalue()
    assert err.getvalue().startswith("error: ") and err.getvalue().count("\n") == 1
    return err.getvalue()
