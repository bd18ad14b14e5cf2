"""Features of test images at every point of the occlusion and shuffling curves, in one program."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.perturbations import drop_patches, shuffle_tiles
from ibot_jax.evaluate.features.extract import FeatureFn
from ibot_jax.models.pixels import normalize
from ibot_jax.weights.model import Model

OCCLUSIONS = ("random", "salient", "nonsalient")  # which patches are blanked first


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
      curve: "occlusion_random", "occlusion_salient", "occlusion_nonsalient" or "shuffling".
      x: percent of the patches that are blanked, or tiles along a side.
    """

    curve: str
    x: int


def fitting_grids(model: Model, size: tuple[int, int]) -> list[int]:
    """Returns usual grids that divide images of a size, with tiles no smaller than a patch."""
    height, width = model.geometry.whole(size)
    rows = min(model.geometry.grid((height, width)))
    return [
        grid
        for grid in (1, 2, 4, 7, 8, 14, 16)
        if grid <= rows and not height % grid and not width % grid
    ]


def make_points(ratios: Sequence[float], grids: Sequence[int]) -> list[Point]:
    """Returns the points in the order of `make_curve_fn`'s features."""
    occlusions = [
        Point(f"occlusion_{which}", round(100 * ratio)) for which in OCCLUSIONS for ratio in ratios
    ]
    return occlusions + [Point("shuffling", grid) for grid in grids]


def make_curve_fn(
    model: Model, size: tuple[int, int], ratios: Sequence[float], grids: Sequence[int], seed: int
) -> FeatureFn:
    """Returns the function from (params, images) to class tokens at all points, [B, P, D].

    Random patches and tiles are drawn for each row of a batch, the same in every batch; with a
    larger ratio the same patches are blanked and more.

    Args:
      model: the model.
      size: of the images, height and width; what does not fill a patch is cut off.
      ratios: shares of patches that are blanked, from 0 to 1.
      grids: tiles along a side.
      seed: of what is random.

    Raises:
      UserError: if a grid does not divide the image.
    """
    data = model.config.data
    height, width = model.geometry.whole(size)
    for grid in grids:
        if height % grid or width % grid:
            raise UserError(
                f"--grids: {grid}x{grid} tiles do not divide {height}x{width} pixels (whole "
                f"patches of {model.geometry.stride}); choose others, or another --size"
            )
    # What is done at each point: 0 blanks patches by one of the scores, the others shuffle.
    occlusions = [(0, kind, ratio) for kind in range(len(OCCLUSIONS)) for ratio in ratios]
    shuffles = [(1 + number, 0, 0.0) for number in range(len(grids))]
    actions, kinds, shares = zip(*occlusions, *shuffles, strict=True)

    def features(params, images):
        images = normalize(images, data.mean, data.std, jnp.float32)
        images = images[:, :height, :width]
        attention = model.attention(params, images, floats="normalized").cls.mean(axis=1)
        of_patches, of_tiles = jax.random.split(jax.random.key(seed))
        scores = jnp.stack([jax.random.uniform(of_patches, attention.shape), attention, -attention])

        def blank(kind, share):
            return drop_patches(images, scores[kind], share)

        def shuffle(grid):
            return lambda kind, share: shuffle_tiles(images, grid, of_tiles)

        def one_point(point):
            action, kind, share = point
            disturbed = jax.lax.switch(action, [blank, *map(shuffle, grids)], kind, share)
            return model.features(params, disturbed, floats="normalized").cls

        points = jnp.array(actions), jnp.array(kinds), jnp.array(shares, jnp.float32)
        return jnp.moveaxis(jax.lax.map(one_point, points), 0, 1)

    return features
