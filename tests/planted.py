"""Models whose answers are known: a block adds nothing, tokens say a patch's colour alone."""

import json
import pathlib

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tiny import tiny_config

from ibot_jax.weights.model import Model

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 80, 0),  # less sure to be red
}
PATCH = 4


def color_config(**overrides) -> ConfigDict:
    """Returns the config of a model of one block on 16-pixel images with 4-pixel patches."""
    model = dict(model__depth=1, model__width=16, model__heads=1)
    head = dict(head__act="relu", head__hidden_dim=16, head__bottleneck_dim=6)
    prototypes = dict(head__prototypes=3, head__patch_prototypes=3)
    data = dict(data__mean=(0.0, 0.0, 0.0), data__std=(1.0, 1.0, 1.0))
    return tiny_config(**(model | head | prototypes | data | overrides))


def color_model(**overrides) -> tuple[Model, dict]:
    """Returns a model whose prototypes 0, 1 and 2 mean red, green and blue patches.

    The block's parameters are zero. The patch embedding is the mean colour and its negative; the
    head keeps its positive part; the prototypes are what pure colours become.
    """
    model = Model(color_config(**overrides), "planted")
    image, token = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16), np.float32)
    params = {"backbone": zeros(model.backbone, image), "head": zeros(model.head, token)}
    embedding = params["backbone"]["patch_embed"]["proj"]["kernel"].reshape(PATCH * PATCH, 3, 16)
    for channel in range(3):
        embedding[:, channel, channel] = 1 / PATCH**2
        embedding[:, channel, 3 + channel] = -1 / PATCH**2
    params["backbone"]["norm"]["scale"][:] = 1
    for layer in range(3):
        kernel = params["head"][f"mlp_{layer}"]["kernel"]
        np.fill_diagonal(kernel, 1)
    params["head"]["last_layer"]["g"][:] = 1
    for channel in range(3):
        params["head"]["last_layer"]["v"][channel, channel] = 1
    return model, params


def looking_model(**overrides) -> tuple[Model, dict]:
    """Returns a model of one block and one head whose class token looks at light patches."""
    model = Model(
        color_config(**{"model__width": 8, **overrides}),
        "planted",
    )
    params = zeros(model.backbone, np.zeros((1, 16, 16, 3), np.float32))
    # Light patches become (1, -1, 0, ...), black ones 0, which a layer norm makes +-2 and 0.
    params["patch_embed"]["proj"]["kernel"][:, 0] = 1
    params["patch_embed"]["proj"]["kernel"][:, 1] = -1
    params["blocks_0"]["norm1"]["scale"][:] = 1
    qkv = params["blocks_0"]["attn"]["qkv"]
    width = model.config.model.width
    qkv["bias"][0] = 3.0  # every query asks for the first coordinate ...
    qkv["kernel"][0, width] = 1.0  # ... of keys, which is how light a patch is
    return model, {"backbone": params}


def zeros(module: nn.Module, inputs: np.ndarray) -> dict:
    """Returns a module's parameters, all zero."""
    made = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), made)


def save_model(path: pathlib.Path, model: Model, params: dict) -> str:
    """Writes a model as an export of ibot_jax; returns its path."""
    config = model.config
    description = {
        "model": config.model.to_dict(),
        "head": config.head.to_dict(),
        "global_size": list(config.data.global_size),
        "channels": config.data.channels,
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "weights": "teacher",
        "step": 0,
    }
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    np.savez(path, config=json.dumps(description), **flat)
    return str(path)


def patchwork(colors: dict[tuple[int, int], str], side: int = 16) -> np.ndarray:
    """Returns a black image, [side, side, 3] uint8, whose patch (row, column) has a colour."""
    pixels = np.zeros((side, side, 3), np.uint8)
    for (row, column), name in colors.items():
        pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = COLORS[
            name
        ]
    return pixels


def save_images(folder: pathlib.Path, *images: np.ndarray) -> str:
    """Writes images as 000.png, 001.png, ...; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return str(folder)
