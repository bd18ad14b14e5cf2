"""The kinds of backbones in plain numbers and words, by `model.arch` of a config.

What only one kind has is asked here, by its name: one that is not here is a KeyError everywhere,
and never taken for another. `build.MODULES` has the modules. Nothing here imports JAX.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from ibot_jax.config.section import Section
from ibot_jax.models.geometry import Geometry, Size, StageShape, stage_windows


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of backbone without its arrays.

    Functions take the section `model` of a config; `geometry` its module, too.

    Attributes:
      name: in words.
      keys: of the section that this kind alone has; they are attributes of its module.
      depth_key: the one of them that says how many blocks there are.
      heads_key: the one that says how many heads of attention they have.
      positions: of its attention, as `kernels.specs.AttentionSpec` has it.
      geometry: its shape.
      sizes: in words.
      options: what is to be said of it besides, in words by name.
      attended: to how many tokens one attends, by stage: of the grid (rows, columns) of patches of
        a global view, and the numbers of tokens by stage.
      parameters_of_block: how many more a block of a stage has than one of every kind does.
      parameters_of_rest: likewise, outside of blocks, of the stages.
    """

    name: str
    keys: tuple[str, ...]
    depth_key: str
    heads_key: str
    positions: str
    geometry: Callable[[Section], Geometry]
    sizes: Callable[[Section], str]
    options: Callable[[Section], dict[str, str]]
    attended: Callable[[Section, Size, Sequence[int]], Sequence[int]]
    parameters_of_block: Callable[[Section, StageShape], int]
    parameters_of_rest: Callable[[Section, Sequence[StageShape]], int]


def architecture_of(model: Section) -> Architecture:
    """Returns the kind of a backbone by the section `model` of a config, or by its module."""
    return ARCHITECTURES[model.arch]


def geometry_of(model: Section) -> Geometry:
    """Returns the geometry of a backbone by the section `model` of a config, or by its module."""
    return architecture_of(model).geometry(model)


def in_words(model: Section) -> str:
    """Returns what kind of backbone the section `model` of a config asks for, and its sizes."""
    return architecture_of(model).sizes(model)


def _vit_geometry(model: Section) -> Geometry:
    return Geometry(
        patch_size=model.patch_size,
        stride=model.patch_size,
        widths=(model.width,),
        depths=(model.depth,),
        heads=(model.heads,),
        hidden=(model.hidden_dim or _hidden_by_ratio(model),),
        gated=model.ffn == "swiglu",
        registers=model.registers,
    )


def _hidden_by_ratio(model: Section) -> int:
    """Returns a ViT's hidden units: gated two thirds as many, up to a multiple of 8 (DINOv2)."""
    hidden = int(model.width * model.mlp_ratio)
    return -(-int(hidden * 2 / 3) // 8) * 8 if model.ffn == "swiglu" else hidden


def _vit_sizes(model: Section) -> str:
    return (
        f"ViT of width {model.width}, depth {model.depth}, {model.heads} heads, patch "
        f"{model.patch_size}"
    )


def _vit_options(model: Section) -> dict[str, str]:
    options = {"LayerScale": "yes" if model.layer_scale else "no"}
    told = {
        "register tokens": (model.registers, 0, str(model.registers)),
        "positions": (model.positions, "learned", "rotary (RoPE)"),
        "feed-forward networks": (model.ffn, "mlp", "SwiGLU"),
        "biases of queries, keys, values": (
            model.qkv_bias,
            "full",
            {"masked_key": "not of keys", "none": "none"}.get(model.qkv_bias, ""),
        ),
        "norms of queries and keys": (model.qk_norm, False, "yes"),
        "norms": (model.norm_kind, "layer", "RMSNorm"),
        "a last norm of class token and registers": (model.untie_class_norm, False, "yes"),
        "another of local views": (model.untie_local_norm, False, "yes"),
    }
    return options | {name: text for name, (value, off, text) in told.items() if value != off}


def _vit_parameters_of_block(model: Section, stage: StageShape) -> int:
    biases = 1 if model.norm_kind == "rms" else 2
    more = 2 * stage.width if model.layer_scale else 0
    more -= 3 * stage.width if model.qkv_bias == "none" else 0
    more -= 2 * stage.width if model.norm_kind == "rms" else 0
    return more + 2 * biases * (stage.width // stage.heads if model.qk_norm else 0)


def _vit_parameters_of_rest(model: Section, stages: Sequence[StageShape]) -> int:
    tokens = 1 + model.registers
    if model.positions == "learned":
        tokens += stages[0].tokens - model.registers
    of_norm = 1 if model.norm_kind == "rms" else 2
    norms = of_norm * (1 + model.untie_class_norm + model.untie_local_norm) - 2
    return (tokens + norms) * stages[0].width


def _swin_geometry(model: Section) -> Geometry:
    stages = len(model.stage_depths)
    return Geometry(
        patch_size=model.patch_size,
        stride=model.patch_size * 2 ** max(stages - 1, 0),
        widths=tuple(model.width * 2**stage for stage in range(stages)),
        depths=tuple(model.stage_depths),
        heads=tuple(model.stage_heads),
        hidden=tuple(int(model.width * 2**stage * model.mlp_ratio) for stage in range(stages)),
        has_class_token=False,
    )


def _swin_sizes(model: Section) -> str:
    depths, heads = (
        ", ".join(map(str, numbers)) for numbers in (model.stage_depths, model.stage_heads)
    )
    return (
        f"Swin of width {model.width}, depths {depths}, heads {heads}, window {model.window}, "
        f"patch {model.patch_size}"
    )


def _swin_attended(model: Section, grid: Size, tokens: Sequence[int]) -> Sequence[int]:
    return [window**2 for window, _ in stage_windows(model.window, grid, len(tokens))]


def _swin_parameters_of_block(model: Section, stage: StageShape) -> int:
    return (2 * math.isqrt(stage.keys) - 1) ** 2 * stage.heads  # relative positions


def _swin_parameters_of_rest(model: Section, stages: Sequence[StageShape]) -> int:
    del model
    merging = sum(2 * stage.width * (stage.width + 2) for stage in stages[1:])  # with its norm
    return 2 * stages[0].width + merging  # norm of the embedding


ARCHITECTURES = {
    "vit": Architecture(
        name="Vision Transformer",
        keys=(
            *("depth", "heads", "layer_scale", "scan_blocks", "registers"),
            *("ffn", "hidden_dim", "qkv_bias", "qk_norm", "norm_kind"),
            *("untie_class_norm", "untie_local_norm", "positions", "pos_offset", "pos_antialias"),
            *("rope_base", "rope_min_period", "rope_max_period", "rope_coordinates", "rope_dtype"),
        ),
        depth_key="depth",
        heads_key="heads",
        positions="none",
        geometry=_vit_geometry,
        sizes=_vit_sizes,
        options=_vit_options,
        attended=lambda model, grid, tokens: tokens,
        parameters_of_block=_vit_parameters_of_block,
        parameters_of_rest=_vit_parameters_of_rest,
    ),
    "swin": Architecture(
        name="Swin Transformer",
        keys=("stage_depths", "stage_heads", "window"),
        depth_key="stage_depths",
        heads_key="stage_heads",
        positions="relative",
        geometry=_swin_geometry,
        sizes=_swin_sizes,
        options=lambda model: {"window": f"{model.window} tokens"},
        attended=_swin_attended,
        parameters_of_block=_swin_parameters_of_block,
        parameters_of_rest=_swin_parameters_of_rest,
    ),
}
