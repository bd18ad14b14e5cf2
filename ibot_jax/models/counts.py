"""How many tokens, parameters and products a backbone has, from its config alone."""

import dataclasses
import math

from ibot_jax.config.section import Section
from ibot_jax.models.geometry import geometry_of, stage_windows

Size = tuple[int, int]  # height and width in pixels


@dataclasses.dataclass(frozen=True)
class Stage:
    """Equal blocks, on tokens of one view.

    Attributes:
      depth: number of blocks.
      width: token dimension, D.
      hidden: hidden units of the MLP, F.
      heads: of attention.
      tokens: number of tokens.
      keys: to how many a token attends.
    """

    depth: int
    width: int
    hidden: int
    heads: int
    tokens: int
    keys: int


def stages(model: Section, size: Size, trained: Size) -> list[Stage]:
    """Returns the stages of a backbone on a view.

    Args:
      model: the config's section.
      size: of the view.
      trained: size of a global view, on which the windows of a Swin depend.
    """
    geometry, found = geometry_of(model), []
    whole = tuple(-(-side // model.patch_size) for side in trained)
    shapes = zip(geometry.depths, geometry.widths, geometry.heads, strict=True)
    for number, (depth, width, heads) in enumerate(shapes):
        cell = model.patch_size * 2**number
        grid = (-(-side // cell) for side in size)
        tokens = keys = math.prod(grid) + geometry.has_class_token
        if model.arch == "swin":
            keys = stage_windows(model.window, whole, len(geometry.depths))[number][0] ** 2
        hidden = int(width * model.mlp_ratio)
        found.append(Stage(depth, width, hidden, heads, tokens, keys))
    return found


def flops(model: Section, channels: int, size: Size, trained: Size) -> dict[str, float]:
    """Counts the products of a forward pass on one view, of which padding is no part.

    With N patches of P values, T tokens, of which each attends to M, width D and hidden width F.

    Args:
      model: the config's section.
      channels: of an image.
      size: of the view.
      trained: size of a global view.

    Returns:
      FLOPs by kind: "patch_embedding", 2 N P D; "linear", the linear layers of the blocks,
      2 T (4 D^2 + 2 D F) each block, and what merges four tokens, 2 T 4 D 2 D; "attention",
      queries by keys and weights by values, 4 T M D each block.
    """
    patches = math.prod(side // model.patch_size for side in size)
    parts = stages(model, size, trained)
    linear = sum(p.depth * 2 * p.tokens * (4 * p.width**2 + 2 * p.width * p.hidden) for p in parts)
    merging = sum(2 * part.tokens * 2 * part.width**2 for part in parts[1:])
    return {
        "patch_embedding": 2 * patches * model.patch_size**2 * channels * model.width,
        "linear": linear + merging,
        "attention": sum(p.depth * 4 * p.tokens * p.keys * p.width for p in parts),
    }


def parameters(model: Section, channels: int, trained: Size) -> tuple[int, int]:
    """Counts the parameters of the blocks, and all others of a backbone.

    Args:
      model: the config's section.
      channels: of an image.
      trained: size of a global view.
    """
    of_blocks = 0
    parts = stages(model, trained, trained)
    for part in parts:
        width, hidden = part.width, part.hidden
        block = 4 * width * width + 4 * width  # queries, keys, values, projection
        block += 2 * width * hidden + hidden + width + 4 * width  # MLP, two norms
        if model.arch == "swin":
            block += (2 * math.isqrt(part.keys) - 1) ** 2 * part.heads  # relative positions
        elif model.layer_scale:
            block += 2 * width
        of_blocks += part.depth * block
    embedding = (model.patch_size**2 * channels + 1) * model.width
    first, last = parts[0], parts[-1]
    tokens = first.width + 2 * last.width  # mask token, last norm
    if model.arch == "swin":
        tokens += 2 * first.width  # norm of the embedding
        tokens += sum(2 * part.width * (part.width + 2) for part in parts[1:])  # merging, its norm
    else:
        tokens += (1 + first.tokens) * first.width  # class token, positions
    return of_blocks, embedding + tokens
