"""Parameters of a backbone by their names: whose layer they are, and other image sizes."""

from typing import Any

from ibot_jax.models.geometry import Geometry
from ibot_jax.models.vit import resample_positions

Params = Any  # of a network or a part of it: nested dicts with arrays as leaves


def layer_of(path: tuple[str, ...], geometry: Geometry) -> int:
    """Returns the number of the layer that a parameter belongs to.

    Args:
      path: its names in the backbone, ("blocks_3", "attn", ...) or, of one with stages,
        ("stages_1", "blocks_0", ...).
      geometry: of the backbone.

    Returns:
      0 for the embedding (patches, positions, tokens); n for the n-th block from 1 on, over all
      stages, a merging of patches going with the block before it; depth + 1 for the last norm.
    """
    if path[0] == "norm":
        return geometry.depth + 1
    kind, _, number = path[0].partition("_")
    if kind == "stages":
        before = sum(geometry.depths[: int(number)])
        if path[1] == "merge":
            return before + geometry.depths[int(number)]
        return before + layer_of(path[1:], geometry)
    return int(number) + 1 if kind == "blocks" else 0


def for_size(
    params: Params, geometry: Geometry, trained: tuple[int, int], wanted: tuple[int, int]
) -> Params:
    """Returns a backbone's parameters for images of another size, positions resampled.

    Args:
      params: of the backbone.
      geometry: its geometry.
      trained: height and width of the images that they are for.
      wanted: height and width of the images that they shall be for.
    """
    if "pos_embed" not in params:
        return params
    grids = geometry.grid(trained), geometry.grid(wanted)
    return {**params, "pos_embed": resample_positions(params["pos_embed"], *grids)}
