"""Parameters of a backbone by their names: whose layer they are, and other image sizes."""

from collections.abc import Sequence
from typing import Any

import jax

from ibot_jax.config.section import Section
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.positions import resample_positions

Params = Any  # of a network or a part of it: nested dicts with arrays as leaves

LAST_NORMS = ("norm", "class_norm", "local_class_norm")


def names_of(params: Params) -> Params:
    """Returns the tree with its name at each leaf, "backbone/blocks_0/attn/qkv/kernel"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(entry.key for entry in path), params
    )


def layer_of(path: Sequence[str], geometry: Geometry) -> int:
    """Returns the number of the layer that a parameter belongs to.

    Args:
      path: its names in the backbone, ("blocks_3", "attn", ...) or, of one with stages,
        ("stages_1", "blocks_0", ...).
      geometry: of the backbone.

    Returns:
      0 for the embedding (patches, positions, tokens); n for the n-th block from 1 on, over all
      stages, a merging of patches going with the block before it; depth + 1 for the last norms.
    """
    if path[0] in LAST_NORMS:
        return geometry.depth + 1
    kind, _, number = path[0].partition("_")
    if kind == "stages":
        before = sum(geometry.depths[: int(number)])
        if path[1] == "merge":
            return before + geometry.depths[int(number)]
        return before + layer_of(path[1:], geometry)
    return int(number) + 1 if kind == "blocks" else 0


def for_size(
    params: Params, model: Section, trained: tuple[int, int], wanted: tuple[int, int]
) -> Params:
    """Returns a backbone's parameters for images of another size, positions resampled.

    Args:
      params: of the backbone.
      model: the section of its config.
      trained: height and width of the images that they are for.
      wanted: height and width of the images that they shall be for.
    """
    if "pos_embed" not in params:
        return params
    grids = (geometry_of(model).grid(size) for size in (trained, wanted))
    how = model.pos_offset, model.pos_antialias
    return {**params, "pos_embed": resample_positions(params["pos_embed"], *grids, *how)}
