"""The original's PyTorch parameter names and layouts <-> this project's Flax trees.

PyTorch keeps linear weights as (out, in), the patch projection as (out, channels, p, p), and the
prototypes as directions (K, in) with norms (K, 1).
"""

import re

import flax.traverse_util
import numpy as np

Params = dict  # {"backbone": ..., "head": ...}, nested dicts with arrays as leaves

# PyTorch layer name, with {i} for a number, and the Flax path of the same layer.
_LAYERS = {
    "backbone.patch_embed.proj": ("backbone", "patch_embed", "proj"),
    "backbone.blocks.{i}.norm1": ("backbone", "blocks_{i}", "norm1"),
    "backbone.blocks.{i}.attn.qkv": ("backbone", "blocks_{i}", "attn", "qkv"),
    "backbone.blocks.{i}.attn.proj": ("backbone", "blocks_{i}", "attn", "proj"),
    "backbone.blocks.{i}.norm2": ("backbone", "blocks_{i}", "norm2"),
    "backbone.blocks.{i}.mlp.fc1": ("backbone", "blocks_{i}", "mlp", "fc1"),
    "backbone.blocks.{i}.mlp.fc2": ("backbone", "blocks_{i}", "mlp", "fc2"),
    "backbone.norm": ("backbone", "norm"),
    "head.mlp.0": ("head", "mlp_0"),
    "head.mlp.2": ("head", "mlp_1"),
    "head.mlp.4": ("head", "mlp_2"),
    "head.last_layer": ("head", "last_layer"),
    "head.last_layer2": ("head", "patch_last_layer"),
}
_TENSORS = {
    "backbone.cls_token": ("backbone", "cls_token"),
    "backbone.pos_embed": ("backbone", "pos_embed"),
    "backbone.masked_embed": ("backbone", "mask_token"),
    "backbone.blocks.{i}.gamma_1": ("backbone", "blocks_{i}", "gamma_1"),
    "backbone.blocks.{i}.gamma_2": ("backbone", "blocks_{i}", "gamma_2"),
}
_LEAVES = {"weight": None, "bias": "bias", "weight_v": "v", "weight_g": "g"}


def all_names(depth: int) -> list[str]:
    """Returns the names of all tensors that a model of so many blocks may have."""
    patterns = list(_TENSORS)
    for layer in _LAYERS:
        leaves = ("weight_g", "weight_v") if "last_layer" in layer else ("weight", "bias")
        patterns += [f"{layer}.{leaf}" for leaf in leaves]
    names = []
    for pattern in patterns:
        numbers = range(depth) if "{i}" in pattern else (0,)
        names += [pattern.format(i=number) for number in numbers]
    return names


def _flax_path(name: str) -> tuple[str, ...]:
    pattern = re.sub(r"\.blocks\.\d+\.", ".blocks.{i}.", name)
    index = re.search(r"\.blocks\.(\d+)\.", name)
    layer, _, leaf = pattern.rpartition(".")
    if pattern in _TENSORS:
        path = _TENSORS[pattern]
    elif layer in _LAYERS and leaf in _LEAVES:
        is_norm = "norm" in layer.rpartition(".")[-1]
        path = (*_LAYERS[layer], _LEAVES[leaf] or ("scale" if is_norm else "kernel"))
    else:
        raise KeyError(name)
    return tuple(part.format(i=index and index.group(1)) for part in path)


def to_flax(tensors: dict[str, np.ndarray], shared_head: bool) -> Params:
    """Converts the original's tensors to a Flax tree.

    Args:
      tensors: by PyTorch name ("backbone.cls_token", "head.mlp.0.weight", ...).
      shared_head: whether class and patch tokens share the last layer; PyTorch then stores it
        under two names, of which the second is left out.

    Returns:
      {"backbone": ..., "head": ...} with the tensors that there were.

    Raises:
      KeyError: for a name that a Vision Transformer with an iBOT head does not have.
    """
    flat = {}
    for name, tensor in tensors.items():
        path = _flax_path(name)
        if shared_head and "patch_last_layer" in path:
            continue
        if name == "backbone.patch_embed.proj.weight":  # (D, C, p, p) -> [p * p * C, D]
            tensor = tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
        elif path[-1] in ("kernel", "v", "g"):
            tensor = tensor.T
        flat[path] = tensor
    return flax.traverse_util.unflatten_dict(flat)


def to_torch(params: Params, patch_size: int) -> dict[str, np.ndarray]:
    """Converts a Flax tree to the original's names and layouts; the inverse of `to_flax`.

    A shared last layer comes out under both of its names, as in the original's checkpoints.

    Args:
      params: {"backbone": ..., "head": ...}, or part of it.
      patch_size: of the patch projection, in pixels.
    """
    flat = {
        path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(params).items()
    }
    for path in list(flat):
        if path[:2] == ("head", "last_layer"):
            flat.setdefault(("head", "patch_last_layer", path[2]), flat[path])
    return {_torch_name(path): _torch_layout(path, leaf, patch_size) for path, leaf in flat.items()}


def _torch_name(path: tuple[str, ...]) -> str:
    index = next((part[7:] for part in path if part.startswith("blocks_")), None)
    path = tuple("blocks_{i}" if part.startswith("blocks_") else part for part in path)
    for name, tensor_path in _TENSORS.items():
        if path == tensor_path:
            return name.format(i=index)
    leaf = {"bias": "bias", "v": "weight_v", "g": "weight_g"}.get(path[-1], "weight")
    layer = next(name for name, layer_path in _LAYERS.items() if layer_path == path[:-1])
    return f"{layer.format(i=index)}.{leaf}"


def _torch_layout(path: tuple[str, ...], leaf: np.ndarray, patch_size: int) -> np.ndarray:
    if path == ("backbone", "patch_embed", "proj", "kernel"):  # [p * p * C, D] -> (D, C, p, p)
        return leaf.reshape(patch_size, patch_size, -1, leaf.shape[1]).transpose(3, 2, 0, 1)
    return leaf.T if path[-1] in ("kernel", "v", "g") else leaf
