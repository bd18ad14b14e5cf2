"""How many tokens, parameters and products a backbone has, from its config alone."""

import math

from ibot_jax.config.section import Section
from ibot_jax.models.architectures import architecture_of, geometry_of
from ibot_jax.models.geometry import Size, StageShape


def stages(model: Section, size: Size, trained: Size) -> list[StageShape]:
    """Returns the stages of a backbone on a view.

    Args:
      model: the config's section.
      size: height and width of the view in pixels.
      trained: those of a global view, on which windows depend.
    """
    geometry = geometry_of(model)
    tokens = []
    for number in range(len(geometry.depths)):
        cell = model.patch_size * 2**number
        patches_of_stage = math.prod(-(-side // cell) for side in size)
        tokens.append(patches_of_stage + geometry.has_class_token + geometry.registers)
    keys = architecture_of(model).attended(model, geometry.patches(trained), tokens)
    shapes = (geometry.depths, geometry.widths, geometry.hidden, geometry.heads, tokens, keys)
    return [StageShape(*shape) for shape in zip(*shapes, strict=True)]


def flops(model: Section, channels: int, size: Size, trained: Size) -> dict[str, float]:
    """Counts the products of a forward pass on one view, of which padding is no part.

    With N patches of P values, T tokens, of which each attends to M, width D and hidden width F;
    L is 2, or 3 where feed-forward networks are gated.

    Args:
      model: the config's section.
      channels: of an image.
      size: of the view.
      trained: size of a global view.

    Returns:
      FLOPs by kind: "patch_embedding", 2 N P D; "linear", the linear layers of the blocks,
      2 T (4 D^2 + L D F) each block, and what merges four tokens, 2 T 4 D 2 D; "attention",
      queries by keys and weights by values, 4 T M D each block.
    """
    patches = math.prod(geometry_of(model).patches(size))
    parts = stages(model, size, trained)
    layers = 3 if geometry_of(model).gated else 2
    linear = sum(
        p.depth * 2 * p.tokens * (4 * p.width**2 + layers * p.width * p.hidden) for p in parts
    )
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
    architecture, of_blocks = architecture_of(model), 0
    first_layers = 2 if geometry_of(model).gated else 1
    parts = stages(model, trained, trained)
    for part in parts:
        width, hidden = part.width, part.hidden
        block = 4 * width * width + 4 * width  # queries, keys, values, projection
        block += first_layers * (width + 1) * hidden + (hidden + 1) * width + 4 * width
        block += architecture.parameters_of_block(model, part)
        of_blocks += part.depth * block
    embedding = (model.patch_size**2 * channels + 1) * model.width
    first, last = parts[0], parts[-1]
    mask_and_norm = first.width + 2 * last.width
    return of_blocks, embedding + mask_and_norm + architecture.parameters_of_rest(model, parts)


def head_sizes(head: Section) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns hidden and bottleneck units of the MLPs of class tokens, and of patch tokens."""
    sizes = head.hidden_dim, head.bottleneck_dim
    return sizes, (head.patch_hidden_dim or sizes[0], head.patch_bottleneck_dim or sizes[1])
