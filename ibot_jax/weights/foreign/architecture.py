"""Which backbone this is: from the shapes of its tensors, and what is said of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ibot_jax.config import SWIN_SIZES, VIT_SIZES, get_config
from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, flatten
from ibot_jax.errors import UserError
from ibot_jax.models.geometry import Geometry
from ibot_jax.weights.description import described_config
from ibot_jax.weights.foreign import swin, vit
from ibot_jax.weights.foreign.accounting import MASK_TOKEN
from ibot_jax.weights.foreign.dialects import DINOV3, HUGGING_FACE_SWIN, ORIGINAL_SWIN
from ibot_jax.weights.foreign.tensor_names import FileNames
from ibot_jax.weights.sanity import check_normalization

# Attention heads of the published models by width, which no tensor tells.
_HEADS = {size["width"]: size["heads"] for size in VIT_SIZES.values()} | {1280: 16, 1536: 24}
# What the architecture is read off.
_POSITIONS, _PATCHES = "backbone.pos_embed", "backbone.patch_embed.proj.weight"
_WIDTH = {"vit": ("backbone.cls_token", 3), "swin": ("backbone.patch_embed.norm.weight", 1)}
Shapes = Mapping[str, Sequence[int]]
_Sizes = tuple[dict[str, Any], list[str]]


@dataclasses.dataclass(frozen=True)
class Known:
    """What the user says of a model where its file does not, or where the file is wrong.

    Attributes:
      heads: of attention.
      norm_eps: LayerNorm's epsilon.
      mean: of each channel, for pixels in [0, 1].
      std: the same.
      grid: rows and columns of output patches of the images that it is trained for.
      allow: patterns, as of shells, of names of tensors that may be missing or left over.
      file_first: whether all this counts only where the file tells nothing.
      backbone_only: whether whatever reads the tokens may be left over.
      size: (height, width) of images in pixels, in place of `grid`, which takes the patches.
    """

    heads: int | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    grid: tuple[int, int] | None = None
    allow: tuple[str, ...] = ()
    file_first: bool = False
    backbone_only: bool = False
    size: tuple[int, int] | None = None

    def grid_by(self, geometry: Geometry) -> tuple[int, int] | None:
        """Returns rows and columns of output patches, as far as the user says them."""
        return self.grid or (geometry.grid(self.size) if self.size else None)

    def first(self, said: Any, told: Any) -> Any:
        """Returns what counts of what the user says and the file tells; None is nothing."""
        one, other = (told, said) if self.file_first else (said, told)
        return other if one is None else one


class _Evidence(NamedTuple):
    """What tells the sizes of a model; see `infer_config`."""

    shapes: Shapes
    depths: Sequence[int]
    facts: Mapping[str, Any]
    known: Known
    path: str


def told_depths(facts: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the number of blocks by stage, as far as a file says it; else nothing.

    The original says it by --arch=vit_small or swin_tiny.
    """
    if "depth" in facts or "stage_depths" in facts:
        return tuple(facts.get("stage_depths") or [facts["depth"]])
    kind, _, size = str(facts.get("args", {}).get("arch", "")).partition("_")
    if kind == "swin":
        return SWIN_SIZES.get(size, {}).get("stage_depths", ())
    return (VIT_SIZES[size]["depth"],) if kind == "vit" and size in VIT_SIZES else ()


def infer_config(
    names: FileNames,
    depths: Sequence[int],
    shapes: Shapes,
    facts: Mapping[str, Any],
    known: Known,
    path: str,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the default config, flattened, with `model`, `head` and `data` as found, and notes.

    Args:
      names: of the file.
      depths: number of blocks, by stage.
      shapes: by the original's names; biases and gains may be absent.
      facts: what the file says, see `files.Contents`.
      known: what the user says.
      path: of the file, for messages.

    Raises:
      UserError: if the shapes are not those of such a backbone, do not tell enough, or are others
        than the file says.
    """
    config = flatten(get_config())
    if "description" in facts:
        config = flatten(described_config(facts["description"], path))
        facts = _facts_of(config) | dict(facts)
    described, dialect = dict(config), names.dialect
    arch = dialect.arch
    width = _shape(shapes, *_WIDTH[arch], path)[-1]
    _, channels, patch, across = _shape(shapes, _PATCHES, 4, path)
    if patch != across:
        raise UserError(f"{path} has patches of {patch}x{across} pixels; here they are square")
    units = "backbone.layers.0.blocks.0.mlp.fc1.weight" if arch == "swin" else vit.hidden(shapes)
    hidden = _shape(shapes, units, 2, path)[0]
    _require_as_said(
        {"width": width, "channels": channels, "patch_size": patch, "hidden": hidden}, facts, path
    )
    sizes = _swin_sizes if arch == "swin" else _vit_sizes
    found, guessed = sizes(_Evidence(shapes, depths, facts, known, path), width, patch)
    config |= found
    if arch == "vit":
        config |= vit.options(dialect, shapes, facts)
    if "description" in facts:
        config |= {key: described[key] for key in vit.UNTOLD}
    config["model.norm_eps"], told = _norm_eps(names, shapes, facts, known, path)
    if not told:
        guessed.append(f"LayerNorm's epsilon of {config['model.norm_eps']:g} (--norm-eps)")
    config |= {
        "dtype": "float32",
        "model.arch": arch,
        "model.width": width,
        "model.patch_size": patch,
        "model.mlp_ratio": hidden / width,
        "data.channels": channels,
    }
    for name in ("mean", "std"):
        said = getattr(known, name)
        if known.file_first and said and len(said) != channels:
            said = (0.5,) * channels  # that of the images to come, which have other channels
        said = known.first(said, facts.get(name))
        value = said or config[f"data.{name}"]
        if not said:
            guessed.append(f"ImageNet's {name} (--{name})")
        if len(value) != channels:
            raise UserError(f"{path} takes images of {channels} channels; say --{name}=... of each")
        config[f"data.{name}"] = tuple(float(x) for x in value)
        of_user = said and said == getattr(known, name)
        check_normalization({name: config[f"data.{name}"]}, "--" if of_user else f"{path}: ")
    config |= _infer_head(shapes, facts.get("act", "gelu"))
    return config, [f"not told, so as usual: {', '.join(guessed)}"] if guessed else []


def _require_as_said(found: Mapping[str, Any], facts: Mapping[str, Any], path: str) -> None:
    for name, value in found.items():
        if facts.get(name, value) != value:
            raise UserError(
                f"{path} has tensors for {name}={value}, and a config.json that says "
                f"{facts[name]}; restore the one or the other"
            )


def _vit_sizes(evidence: _Evidence, width: int, patch: int) -> _Sizes:
    """Returns the keys that a Vision Transformer's own shapes tell, and what was guessed."""
    shapes, (depth,), facts, known, path = evidence
    registers = 0
    if "backbone.register_tokens" in shapes:
        registers = _shape(shapes, "backbone.register_tokens", 3, path)[1]
    qk_norm = any(".q_norm." in name for name in shapes)
    _require_as_said({"registers": registers, "qk_norm": qk_norm}, facts, path)
    heads = _heads(width, facts, known, path)
    if width // heads != facts.get("head_dim", width // heads):
        raise UserError(
            f"{path} has rotations of heads of width {facts['head_dim']}, not of {heads} heads"
        )
    geometry = Geometry(patch, patch, widths=(width,), depths=(depth,), heads=(heads,))
    guessed = []  # what is as usual, for nothing tells it
    if not (known.heads or facts.get("heads") or facts.get("head_dim")):
        guessed.append(f"{heads} heads of attention (--heads)")
    if _POSITIONS in shapes:
        positions = _shape(shapes, _POSITIONS, 3, path)[1]
        grid = _grid(positions - 1, facts.get("size"), geometry, known, path)
        usual = f"a square grid of {grid[0]}x{grid[1]} patches (--grid)"
    else:
        size = geometry.whole(tuple(facts.get("size") or get_config().data.global_size))
        grid = known.grid_by(geometry) or geometry.grid(size)
        usual = f"images of {size[0]}x{size[1]} pixels (--grid)"
    if not (known.grid_by(geometry) or facts.get("size")):
        guessed.append(usual)
    return {
        "model.depth": depth,
        "model.heads": heads,
        "data.global_size": geometry.size(grid),
    }, guessed


def _swin_sizes(evidence: _Evidence, width: int, patch: int) -> _Sizes:
    """Returns the keys that a Swin's own shapes tell, and what was guessed."""
    shapes, depths, facts, known, path = evidence
    if known.heads and not known.file_first:
        raise UserError("--heads is for Vision Transformers; a Swin's tables tell its heads")
    heads, windows = swin.heads_and_windows(shapes, len(depths), path)
    _require_as_said({"stage_heads": list(heads)}, facts, path)
    for stage, number in enumerate(heads):
        if width * 2**stage % number:
            raise UserError(
                f"{path} has {number} heads in stage {stage}, which do not divide its width, "
                f"{width * 2**stage}"
            )
    stride = patch * 2 ** (len(depths) - 1)
    size, guessed = facts.get("size"), []
    if not size and (grid := swin.told_grid(windows)):
        size = [side * patch for side in grid]
    of_user = known.size or (known.grid and [side * stride for side in known.grid])
    size = known.first(of_user, size)
    if not size:
        size = get_config().data.global_size
        guessed.append(f"images of {size[0]}x{size[1]} pixels (--grid)")
    return {
        "model.stage_depths": tuple(depths),
        "model.stage_heads": heads,
        "model.window": max(windows),
        "data.global_size": tuple(size),
    }, guessed


def _facts_of(config: Flat) -> dict[str, Any]:
    """Returns the facts in this project's own description of a model."""
    return {
        "heads": config["model.heads"],
        "stage_heads": list(config["model.stage_heads"]),
        "size": config["data.global_size"],
        "mean": config["data.mean"],
        "std": config["data.std"],
        "act": config["head.act"],
        "masked_key": config["model.qkv_bias"] == "masked_key",
        "epsilon": config["model.norm_eps"],
    }


def _norm_eps(
    names: FileNames, shapes: Shapes, facts: Mapping[str, Any], known: Known, path: str
) -> tuple[float, bool]:
    """Returns LayerNorm's epsilon, and whether anything tells it."""
    key, dialect = KEYS["model.norm_eps"], names.dialect
    usual = dialect.norm_eps or key.default
    of_ibot = dialect is ORIGINAL_SWIN and (MASK_TOKEN in shapes or "args" in facts)
    # That of DINOv3's published models; its training has another by default.
    of_project = dialect.norm_eps and not (dialect is DINOV3 and names.head)
    told = "epsilon" in facts or bool(of_project) or of_ibot
    said = known.norm_eps is not None and not (told and known.file_first)
    epsilon = known.norm_eps if said else facts.get("epsilon", usual)
    if problem := key.problem(epsilon):
        whose = "--norm-eps" if said else f"LayerNorm's epsilon in {path}"
        raise UserError(f"{whose} is {epsilon:g} and {problem}")
    described = said or "description" in facts
    if dialect is HUGGING_FACE_SWIN and epsilon != usual and not described:
        raise UserError(
            f"{path} has layer_norm_eps={epsilon:g}, and transformers has {usual:g} in the other "
            "norms of a Swin; here all have one: say which by --norm-eps"
        )
    return epsilon, said or told


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
    """Returns the rows and columns of patches that positions are trained for.

    Images to come (`file_first`) tell them only where they fit and a square would not: as many
    patches in another shape are no reason to take positions for those of that shape.
    """
    said, side = known.grid_by(geometry), math.isqrt(max(patches, 0))
    is_square = side > 0 and side * side == patches
    if said and not (known.file_first and (size or is_square or math.prod(said) != patches)):
        rows, columns = said
        if rows * columns != patches:
            raise UserError(
                f"--grid={rows}x{columns} are {rows * columns} patches; {path} has positions of a "
                f"class token and {patches}"
            )
        return said
    if size is not None:
        rows, columns = geometry.grid(size)
        if rows * columns != patches:
            raise UserError(
                f"{path} is for {size[0]}x{size[1]} pixels, {rows}x{columns} patches of "
                f"{geometry.patch_size}, and has positions of a class token and {patches}; say "
                "which by --grid=HxW"
            )
        return rows, columns
    if not is_square:
        raise UserError(
            f"{path} has {patches + 1} positions: no class token and a square grid of patches, and "
            "nothing tells another grid; say which by --grid=HxW, in patches"
        )
    return side, side


def _heads(width: int, facts: Mapping[str, Any], known: Known, path: str) -> int:
    by_head_dim = max(width // facts["head_dim"], 1) if facts.get("head_dim") else None
    told = facts.get("heads") or by_head_dim
    heads = known.first(known.heads, told) or _HEADS.get(width)
    if heads is None:
        raise UserError(
            f"{path} does not tell how many attention heads its blocks of width {width} have; say "
            "so by --heads=N"
        )
    if heads < 1 or width % heads:
        whose = "--heads" if heads == known.heads else path
        raise UserError(
            f"{whose} says {heads} attention heads, which do not divide the width of {width}"
        )
    return heads


def _infer_head(shapes: Shapes, act: str) -> dict[str, Any]:
    """Returns the keys of the section `head`, as far as there are shapes for them."""
    found = {"head.act": act}
    outputs = ("weight_v", "weight")
    for key, names in (
        ("head.hidden_dim", ["head.mlp.0.weight"]),
        ("head.bottleneck_dim", ["head.mlp.4.weight"]),
        ("head.patch_hidden_dim", ["patch_head.mlp.0.weight"]),
        ("head.patch_bottleneck_dim", ["patch_head.mlp.4.weight"]),
        ("head.prototypes", [f"head.last_layer.{leaf}" for leaf in outputs]),
        # Of the layer that they share, if they do.
        ("head.patch_prototypes", [f"head.last_layer.{leaf}" for leaf in outputs]),
        ("head.patch_prototypes", [f"head.last_layer2.{leaf}" for leaf in outputs]),
        ("head.patch_prototypes", [f"patch_head.last_layer.{leaf}" for leaf in outputs]),
    ):
        if there := [shapes[name] for name in names if name in shapes]:
            found[key] = there[0][0]
    for name in ("hidden_dim", "bottleneck_dim"):
        if found.get(f"head.patch_{name}") == found.get(f"head.{name}"):
            found.pop(f"head.patch_{name}", None)
    return found
