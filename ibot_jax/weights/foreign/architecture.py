"""Which Vision Transformer this is: from the shapes of its tensors, and what is said of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ibot_jax.config import VIT_SIZES, get_config
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, flatten
from ibot_jax.errors import UserError
from ibot_jax.models.geometry import Geometry
from ibot_jax.weights.description import described_config
from ibot_jax.weights.sanity import check_normalization

# Attention heads of the published models by width, which no tensor tells.
_HEADS = {size["width"]: size["heads"] for size in VIT_SIZES.values()} | {1280: 16, 1536: 24}
# What the architecture is read off.
_CLASS, _POSITIONS = "backbone.cls_token", "backbone.pos_embed"
_PATCHES, _HIDDEN = "backbone.patch_embed.proj.weight", "backbone.blocks.0.mlp.fc1.weight"
Shapes = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Known:
    """What the user says of a model where its file does not, or where the file is wrong.

    Attributes:
      heads: of attention.
      norm_eps: LayerNorm's epsilon.
      mean: of each channel, for pixels in [0, 1].
      std: the same.
      grid: rows and columns of patches that positions are for.
      allow: patterns, as of shells, of names of tensors that may be missing or left over.
    """

    heads: int | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    grid: tuple[int, int] | None = None
    allow: tuple[str, ...] = ()


def told_depth(facts: Mapping[str, Any]) -> int | None:
    """Returns the number of blocks that a file says, be it by the original's `--arch=vit_small`."""
    arch = str(facts.get("args", {}).get("arch", ""))
    named = VIT_SIZES.get(arch.removeprefix("vit_"), {}).get("depth")
    return facts.get("depth") or named


def infer_config(
    shapes: Shapes, facts: Mapping[str, Any], known: Known, path: str, *, depth: int
) -> tuple[dict[str, Any], list[str]]:
    """Returns the default config, flattened, with `model`, `head` and `data` as found, and notes.

    Args:
      shapes: by the original's names; biases and gains may be absent.
      facts: what the file says, see `files.Contents`.
      known: what the user says.
      path: of the file, for messages.
      depth: number of blocks.

    Raises:
      UserError: if the shapes are not those of a Vision Transformer, do not tell enough, or are
        others than the file says.
    """
    config = flatten(get_config())
    if "description" in facts:
        config = flatten(described_config(facts["description"], path))
        facts = _facts_of(config) | dict(facts)
    width = _shape(shapes, _CLASS, 3, path)[-1]
    _, channels, patch, across = _shape(shapes, _PATCHES, 4, path)
    if patch != across:
        raise UserError(f"{path} has patches of {patch}x{across} pixels; here they are square")
    hidden = _shape(shapes, _HIDDEN, 2, path)[0]
    found = {"width": width, "channels": channels, "patch_size": patch, "hidden": hidden}
    for name, value in found.items():
        if facts.get(name, value) != value:
            raise UserError(
                f"{path} has tensors for {name}={value}, and a config.json that says "
                f"{facts[name]}; restore the one or the other"
            )
    heads = _heads(width, facts, known, path)
    geometry = Geometry(patch, patch, widths=(width,), depths=(depth,), heads=(heads,))
    positions = _shape(shapes, _POSITIONS, 3, path)[1]
    grid = _grid(positions - 1, facts.get("size"), geometry, known, path)
    guessed = []  # what is as usual, for nothing tells it
    if not (known.heads or facts.get("heads")):
        guessed.append(f"{heads} heads of attention (--heads)")
    if not (known.grid or facts.get("size")):
        guessed.append(f"a square grid of {grid[0]}x{grid[1]} patches (--grid)")

    config |= {
        "dtype": "float32",
        "model.width": width,
        "model.depth": depth,
        "model.heads": heads,
        "model.patch_size": patch,
        "model.mlp_ratio": hidden / width,
        "model.layer_scale": float(any(".gamma_" in name for name in shapes)),
        "model.norm_eps": _norm_eps(facts, known, path),
        "data.global_size": geometry.size(grid),
        "data.channels": channels,
    }
    for name in ("mean", "std"):
        said = getattr(known, name)
        value = said or facts.get(name) or config[f"data.{name}"]
        if not (said or facts.get(name)):
            guessed.append(f"ImageNet's {name} (--{name})")
        if len(value) != channels:
            raise UserError(f"{path} takes images of {channels} channels; say --{name}=... of each")
        config[f"data.{name}"] = tuple(float(x) for x in value)
        check_normalization({name: config[f"data.{name}"]}, "--" if said else f"{path}: ")
    config |= _infer_head(shapes, facts.get("act", "gelu"))
    return config, [f"not told, so as usual: {', '.join(guessed)}"] if guessed else []


def _facts_of(config: Flat) -> dict[str, Any]:
    """Returns the facts in this project's own description of a model."""
    return {
        "heads": config["model.heads"],
        "size": config["data.global_size"],
        "mean": config["data.mean"],
        "std": config["data.std"],
        "act": config["head.act"],
        "epsilon": config["model.norm_eps"],
    }


def _norm_eps(facts: Mapping[str, Any], known: Known, path: str) -> float:
    """Returns LayerNorm's epsilon; where nothing tells it, that of iBOT, DINO and timm's ViT."""
    key = KEYS["model.norm_eps"]
    said = known.norm_eps is not None
    epsilon = known.norm_eps if said else facts.get("epsilon", key.default)
    if problem := key.problem(epsilon):
        whose = "--norm-eps" if said else f"LayerNorm's epsilon in {path}"
        raise UserError(f"{whose} is {epsilon:g} and {problem}")
    return epsilon


def _shape(shapes: Shapes, name: str, rank: int, path: str) -> Sequence[int]:
    if len(shapes[name]) != rank or 0 in shapes[name]:
        short = name.removeprefix("backbone.")
        raise UserError(
            f"{path} has {short} of shape {tuple(shapes[name])}, not of {rank} axes, none of them 0"
        )
    return shapes[name]


def _grid(
    patches: int, size: Sequence[int] | None, geometry: Geometry, known: Known, path: str
) -> tuple[int, int]:
    """Returns the rows and columns of patches that positions are trained for."""
    if known.grid:
        rows, columns = known.grid
        if rows * columns != patches:
            raise UserError(
                f"--grid={rows}x{columns} are {rows * columns} patches; {path} has positions of a "
                f"class token and {patches}"
            )
        return known.grid
    if size is not None:
        rows, columns = geometry.grid(size)
        if rows * columns != patches:
            raise UserError(
                f"{path} is for {size[0]}x{size[1]} pixels, {rows}x{columns} patches of "
                f"{geometry.patch_size}, and has positions of a class token and {patches}; say "
                "which by --grid=HxW"
            )
        return rows, columns
    side = math.isqrt(max(patches, 0))
    if side * side != patches or not side:
        raise UserError(
            f"{path} has {patches + 1} positions: no class token and a square grid of patches, and "
            "nothing tells another grid; say which by --grid=HxW, in patches"
        )
    return side, side


def _heads(width: int, facts: Mapping[str, Any], known: Known, path: str) -> int:
    heads = known.heads or facts.get("heads") or _HEADS.get(width)
    if heads is None:
        raise UserError(
            f"{path} does not tell how many attention heads its blocks of width {width} have; say "
            "so by --heads=N"
        )
    if heads < 1 or width % heads:
        raise UserError(f"--heads={heads} does not divide the width of {path}, {width}")
    return heads


def _infer_head(shapes: Shapes, act: str) -> dict[str, Any]:
    """Returns the keys of the section `head`, as far as there are shapes for them."""
    found = {"head.act": act}
    for key, name in (
        ("head.hidden_dim", "head.mlp.0.weight"),
        ("head.bottleneck_dim", "head.mlp.4.weight"),
        ("head.prototypes", "head.last_layer.weight_v"),
        ("head.patch_prototypes", "head.last_layer.weight_v"),  # where they share a last layer
        ("head.patch_prototypes", "head.last_layer2.weight_v"),
    ):
        if name in shapes:
            found[key] = shapes[name][0]
    return found
