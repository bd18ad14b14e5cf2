"""The original's PyTorch parameter names and layouts <-> this project's Flax trees.

What only the heirs have is named as in DINOv2 and DINOv3: `register_tokens`, `cls_norm`, and a
gated network's gate, value and output, `mlp.w1`, `w2` and `w3`; a head of patch tokens alone is
`patch_head`. PyTorch keeps linear weights as
(out, in), the patch projection as (out, channels, p, p), and the prototypes as directions (K, in)
with norms (K, 1). A Swin's tables of relative positions lie there beside a buffer of integers that
says which row is whose.
"""

import math
import re
from collections.abc import Collection, Sequence

import flax.traverse_util
import numpy as np

from ibot_jax.models.parameters import Params
from ibot_jax.weights.deferred import Array, mapped

TABLE, INDEX = "relative_position_bias_table", "relative_position_index"

# Of blocks, with {} for numbers: those of a ViT, and those of the stages of a Swin.
_BLOCKS = {
    "backbone.blocks.{}": "backbone/blocks_{}",
    "backbone.layers.{}.blocks.{}": "backbone/stages_{}/blocks_{}",
}


def _of_blocks(paths: dict[str, str]) -> dict[str, str]:
    return {
        f"{block}.{name}": f"{block_path}/{path}"
        for block, block_path in _BLOCKS.items()
        for name, path in paths.items()
    }


_SECOND = "head.last_layer2"  # of patch tokens, in the head of class tokens

# PyTorch layer name and the Flax path of the same layer.
_LAYERS = {
    "backbone.patch_embed.proj": "backbone/patch_embed/proj",
    "backbone.patch_embed.norm": "backbone/patch_norm",
    "backbone.layers.{}.downsample.norm": "backbone/stages_{}/merge/norm",
    "backbone.layers.{}.downsample.reduction": "backbone/stages_{}/merge/reduction",
    "backbone.norm": "backbone/norm",
    "backbone.cls_norm": "backbone/class_norm",
    "backbone.local_cls_norm": "backbone/local_class_norm",
    "head.mlp.0": "head/mlp_0",
    "head.mlp.2": "head/mlp_1",
    "head.mlp.4": "head/mlp_2",
    "head.last_layer": "head/last_layer",
    _SECOND: "head/patch_last_layer",
    "patch_head.mlp.0": "head/patch_mlp_0",
    "patch_head.mlp.2": "head/patch_mlp_1",
    "patch_head.mlp.4": "head/patch_mlp_2",
    "patch_head.last_layer": "head/patch_last_layer",
    **_of_blocks(
        {
            "norm1": "norm1",
            "attn.qkv": "attn/qkv",
            "attn.q_norm": "attn/q_norm",
            "attn.k_norm": "attn/k_norm",
            "attn.proj": "attn/proj",
            "norm2": "norm2",
            "mlp.fc1": "mlp/fc1",
            "mlp.fc2": "mlp/fc2",
            "mlp.w1": "mlp/gate",
            "mlp.w2": "mlp/value",
            "mlp.w3": "mlp/fc2",
        }
    ),
}
_TENSORS = {
    "backbone.cls_token": "backbone/cls_token",
    "backbone.pos_embed": "backbone/pos_embed",
    "backbone.masked_embed": "backbone/mask_token",
    "backbone.register_tokens": "backbone/register_tokens",
    **_of_blocks(
        {
            "gamma_1": "gamma_1",
            "gamma_2": "gamma_2",
            f"attn.{TABLE}": "attn/relative_bias",
        }
    ),
}
_LEAVES = {"weight": None, "bias": "bias", "weight_v": "v", "weight_g": "g"}


# What one kind of backbone has and the other has not.
_OF_ONE_ARCH = {
    "vit": r"^backbone\.(blocks\.|\w*cls_|pos_embed|register_)|\.gamma_|\.[qk]_norm|\.mlp\.w\d",
    "swin": rf"^backbone\.(layers\.|patch_embed\.norm)|\.{TABLE}$",
}


def all_names(arch: str, depths: Sequence[int]) -> list[str]:
    """Returns the names of all tensors that a model may have, but for buffers.

    Args:
      arch: kind of its backbone.
      depths: number of blocks, by stage; a ViT has one.
    """
    patterns = list(_TENSORS)
    for layer in _LAYERS:
        leaves = ("weight", "bias")
        if "last_layer" in layer:
            leaves = ("weight_g", "weight_v", "weight")  # the last without weight normalisation
        leaves = ("weight",) if layer.endswith(".reduction") else leaves
        patterns += [f"{layer}.{leaf}" for leaf in leaves]
    numbers = {
        "layers.{}.blocks.{}": [(s, i) for s, depth in enumerate(depths) for i in range(depth)],
        "layers.{}": [(stage,) for stage in range(len(depths) - 1)],  # merging follows
        "blocks.{}": [(block,) for block in range(sum(depths))],
        "": [()],
    }
    (other,) = set(_OF_ONE_ARCH) - {arch}
    return [
        pattern.format(*number)
        for pattern in patterns
        if not re.search(_OF_ONE_ARCH[other], pattern)
        for number in next(numbers[part] for part in numbers if part in pattern)
    ]


def _flax_path(name: str) -> tuple[str, ...]:
    numbers = re.findall(r"\.(?:blocks|layers)\.(\d+)", name)
    pattern = re.sub(r"\.(blocks|layers)\.\d+", r".\1.{}", name)
    layer, _, leaf = pattern.rpartition(".")
    if pattern in _TENSORS:
        path = _TENSORS[pattern]
    elif layer in _LAYERS and leaf in _LEAVES:
        kinds = {"norm": "scale", "last_layer": "v"}
        weight = next((kinds[k] for k in kinds if k in layer.rpartition(".")[-1]), "kernel")
        path = f"{_LAYERS[layer]}/{_LEAVES[leaf] or weight}"
    else:
        raise KeyError(name)
    return tuple(path.format(*numbers).split("/"))


def to_flax(tensors: dict[str, Array], shared_head: bool) -> Params:
    """Converts the original's tensors to a Flax tree.

    Args:
      tensors: by PyTorch name ("backbone.cls_token", "head.mlp.0.weight", ...).
      shared_head: whether class and patch tokens share the last layer; PyTorch then stores it
        under two names, of which the second is left out, as is a Swin's buffer of integers.

    Returns:
      {"backbone": ..., "head": ...} with the tensors that there were.

    Raises:
      KeyError: for a name that no ViT or Swin with an iBOT head has.
    """
    flat = {}
    for name, tensor in tensors.items():
        if name.endswith(f".{INDEX}"):
            continue
        path = _flax_path(name)
        if shared_head and "patch_last_layer" in path:
            continue
        if name == "backbone.patch_embed.proj.weight":  # (D, C, p, p) -> [p * p * C, D]
            tensor = mapped(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), tensor)
        elif path[-1] in ("kernel", "v", "g"):
            tensor = mapped(np.transpose, tensor)
        flat[path] = tensor
    return flax.traverse_util.unflatten_dict(flat)


def to_torch(params: Params, patch_size: int) -> dict[str, Array]:
    """Converts a Flax tree to the original's names and layouts; the inverse of `to_flax`.

    A shared last layer comes out under both of its names, as in the original's checkpoints.

    Args:
      params: {"backbone": ..., "head": ...}, or part of it.
      patch_size: of the patch projection, in pixels.
    """
    flat = flax.traverse_util.flatten_dict(params)
    for path in list(flat):
        if path[:2] == ("head", "last_layer"):
            flat.setdefault(("head", "patch_last_layer", path[2]), flat[path])
    tensors = {
        _torch_name(path, flat.keys()): _torch_layout(path, leaf, patch_size)
        for path, leaf in flat.items()
    }
    for name in [name for name in tensors if name.endswith(f".{TABLE}")]:
        window = (math.isqrt(tensors[name].shape[0]) + 1) // 2
        tensors[name.replace(TABLE, INDEX)] = relative_index(window)
    return tensors


def relative_index(window: int) -> np.ndarray:
    """Returns the row of a table of relative positions by query and key, [T, T] int64.

    The T = window^2 tokens of a window are numbered row by row; a table has a row for each
    difference of rows, and in it of columns, a query's place minus a key's.
    """
    rows, columns = np.divmod(np.arange(window**2), window)
    side = 2 * window - 1
    down, right = (x[:, None] - x + window - 1 for x in (rows, columns))
    return down * side + right


def _torch_name(path: tuple[str, ...], paths: Collection[tuple[str, ...]]) -> str:
    """Returns the original's name of a tensor, one of `paths`."""
    joined = "/".join(path)
    numbers = re.findall(r"(?:blocks|stages)_(\d+)", joined)
    pattern = re.sub(r"(blocks|stages)_\d+", r"\1_{}", joined)
    for name, tensor in _TENSORS.items():
        if pattern == tensor:
            return name.format(*numbers)
    layer_path, _, leaf = pattern.rpartition("/")
    separate = ("head", "patch_mlp_0", "kernel") in paths
    layer = next(
        name
        for name, path in _LAYERS.items()
        if path == layer_path and not (separate and name == _SECOND)
    )
    if (*path[:-2], "gate", "kernel") in paths:
        layer = layer.replace(".fc2", ".w3")
    leaf = {"bias": "bias", "v": "weight_v", "g": "weight_g"}.get(leaf, "weight")
    if leaf == "weight_v" and (*path[:-1], "g") not in paths:
        leaf = "weight"
    return f"{layer.format(*numbers)}.{leaf}"


def _torch_layout(path: tuple[str, ...], leaf: Array, patch_size: int) -> Array:
    if path == ("backbone", "patch_embed", "proj", "kernel"):  # [p * p * C, D] -> (D, C, p, p)
        sides = (patch_size, patch_size)
        return mapped(lambda x: x.reshape(*sides, -1, x.shape[1]).transpose(3, 2, 0, 1), leaf)
    return mapped(np.transpose, leaf) if path[-1] in ("kernel", "v", "g") else leaf
