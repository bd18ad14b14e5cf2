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
      parameters_of_block: those that not every kind has, of a block of a stage.
      parameters_of_rest: those outside of blocks that not every kind has, of the stages.
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
    parameters_of_rest: Callable[[Sequence[StageShape]], int]


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
    )


def _vit_sizes(model: Section) -> str:
    return (
        f"ViT of width {model.width}, depth {model.depth}, {model.heads} heads, patch "
        f"{model.patch_size}"
    )


def _vit_parameters_of_rest(stages: Sequence[StageShape]) -> int:
    return (1 + stages[0].tokens) * stages[0].width  # class token, positions


def _swin_geometry(model: Section) -> Geometry:
    stages = len(model.stage_depths)
    return Geometry(
        patch_size=model.patch_size,
        stride=model.patch_size * 2 ** max(stages - 1, 0),
        widths=tuple(model.width * 2**stage for stage in range(stages)),
        depths=tuple(model.stage_depths),
        heads=tuple(model.stage_heads),
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


def _swin_parameters_of_rest(stages: Sequence[StageShape]) -> int:
    merging = sum(2 * stage.width * (stage.width + 2) for stage in stages[1:])  # with its norm
    return 2 * stages[0].width + merging  # norm of the embedding


ARCHITECTURES = {
    "vit": Architecture(
        name="Vision Transformer",
        keys=("depth", "heads", "layer_scale", "scan_blocks"),
        depth_key="depth",
        heads_key="heads",
        positions="none",
        geometry=_vit_geometry,
        sizes=_vit_sizes,
        options=lambda model: {"LayerScale": "yes" if model.layer_scale else "no"},
        attended=lambda model, grid, tokens: tokens,
        parameters_of_block=lambda model, stage: 2 * stage.width if model.layer_scale else 0,
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
