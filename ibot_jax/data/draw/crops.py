"""Crops of an image: where they lie, and how small the image may become before they suffer."""

import math
from collections.abc import Sequence

import numpy as np

from ibot_jax.config.defaults import SHRINK_MARGIN
from ibot_jax.data.pixels.images import SHRINKS
from ibot_jax.data.pixels.resize import Box

CROP_TRIES = 10


def draw_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draws a crop as torchvision's `RandomResizedCrop.get_params` does.

    Area uniform, aspect ratio (width over height) log-uniform, sides rounded; after ten draws that
    do not fit, the largest central crop whose aspect ratio is allowed.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(CROP_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        ratio = math.exp(low + (high - low) * rng.random())
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return Box(top, left, crop_height, crop_width)
    crop_height, crop_width = height, width
    if width / height < aspect[0]:
        crop_height = round(width / aspect[0])
    elif width / height > aspect[1]:
        crop_width = round(height * aspect[1])
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def largest_shrink(
    boxes: Sequence[Box], sizes: Sequence[tuple[int, int]], margin: float = SHRINK_MARGIN
) -> int:
    """Returns how many times smaller an image may be decoded.

    Args:
      boxes: what is cut out for each view.
      sizes: height and width of each view.
      margin: how many times larger than its view each crop stays at least; 0 keeps the image.

    Returns:
      One of `images.SHRINKS`.
    """
    spare = min(
        min(box.height / size[0], box.width / size[1])
        for box, size in zip(boxes, sizes, strict=True)
    )
    return next((shrink for shrink in SHRINKS if margin and margin * shrink <= spare), 1)
