"""Cutting a box out of an image and resizing it, with Pillow's antialiased bicubic filter.

Pillow itself gives the bytes of the original. fast_image_resize is the same filter in vector
instructions, several times as fast: five pixels in six are the same, nearly all others one level
off.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from ibot_jax.errors import UserError


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def check_method(method: str) -> None:
    """Raises a UserError where `method` cannot be had on this machine."""
    if method == "simd":
        try:
            import cykooz_resizer  # noqa: F401 - is it there?
        except ImportError as error:
            raise UserError(
                f"data.resize='simd' needs the package cykooz-resizer ({error}); install it, or "
                "use data.resize='pillow'"
            ) from error


def crop_and_resize(
    pixels: np.ndarray, box: Box, size: tuple[int, int], method: str, shrink: int = 1
) -> np.ndarray:
    """Cuts the box out and resizes it: bicubic, antialiased.

    Cut first: pixels outside the box would bleed in; so they do, by less than one, only where a
    box lies between the pixels of a shrunk image.

    Args:
      pixels: [H, W] or [H, W, C] uint8.
      box: of the image before it was shrunk.
      size: height and width of the result.
      method: "simd" or "pillow".
      shrink: how many times smaller than the original `pixels` is.

    Returns:
      [*size] or [*size, C] uint8.
    """
    top, left, height, width = (side / shrink for side in box)
    first_row, first_column = int(top), int(left)
    crop = pixels[first_row : math.ceil(top + height), first_column : math.ceil(left + width)]
    inside = (left - first_column, top - first_row, width, height)
    return (_resize_simd if method == "simd" else _resize_pillow)(crop, inside, size)


def _resize_pillow(
    crop: np.ndarray, inside: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    left, top, width, height = inside
    return np.asarray(
        Image.fromarray(crop).resize(
            size[::-1], Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
        )
    )


def _resize_simd(
    crop: np.ndarray, inside: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    import cykooz_resizer as simd  # not there on every machine

    height, width, *channels = crop.shape
    resizer, whole, part, pixel_type, target = _prepare(size, *channels)
    source = simd.ImageData(width, height, pixel_type, crop.tobytes())
    if inside == (0, 0, width, height):
        resizer.resize(source, target, whole)
    else:
        part.crop_box = simd.CropBox(*inside)
        resizer.resize(source, target, part)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, *channels)


@functools.cache
def _prepare(size: tuple[int, int], channels: int = 1) -> tuple:
    """Returns what all resizes to one size share: resizer, options, kind of pixel, target.

    Options are those for all of an image, and those that take a box of it, which costs time.
    """
    import cykooz_resizer as simd

    # Catmull and Rom's cubic is Pillow's bicubic, a = -0.5.
    cubic = simd.ResizeAlg.convolution(simd.FilterType.catmull_rom)
    whole, part = simd.ResizeOptions(cubic), simd.ResizeOptions(cubic)
    pixel_type = simd.PixelType["U8" if channels == 1 else f"U8x{channels}"]
    return simd.Resizer(), whole, part, pixel_type, simd.ImageData(*size[::-1], pixel_type)
