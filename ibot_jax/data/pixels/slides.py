"""Regions of slides that a microscope has scanned, by OpenSlide."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage, missing

if TYPE_CHECKING:
    import openslide

_KEPT = 8  # open slides, of each process


def read_region(path: str, box: Box, level: int) -> np.ndarray:
    """Returns a region of a slide, white where nothing was scanned.

    Args:
      path: of a local file.
      box: its top and left are pixels of level 0, height and width those of its own level.
      level: 0 is the finest.

    Returns:
      [H, W, 3] uint8.

    Raises:
      UnreadableImage: if OpenSlide is missing, or the slide has no such level or region.
      Exception: OpenSlide's, if it is no slide.
    """
    from PIL import Image

    slide = _opened(path)
    if level >= slide.level_count:
        raise UnreadableImage(f"it has {slide.level_count} levels, and level {level} is none")
    width, height = slide.dimensions
    scale = slide.level_downsamples[level]
    bottom, right = box.top + (box.height - 1) * scale, box.left + (box.width - 1) * scale
    if bottom >= height or right >= width:
        raise UnreadableImage(
            f"it has {width} x {height} pixels, and the window x={box.left} y={box.top} "
            f"w={box.width} h={box.height} of level {level} ends beyond"
        )
    region = slide.read_region((box.left, box.top), level, (box.width, box.height))
    white = Image.new("RGBA", region.size, "white")
    return np.asarray(Image.alpha_composite(white, region).convert("RGB"))


@functools.lru_cache(_KEPT)
def _opened(path: str) -> "openslide.OpenSlide":
    try:
        import openslide
    except ImportError as error:
        raise missing(error, "a slide", "slides") from error
    return openslide.OpenSlide(path)
