"""Pillow's operations on arrays of pixels, whatever their number of channels."""

from collections.abc import Callable

import numpy as np
from PIL import Image

Change = Callable[[Image.Image], Image.Image]


def in_threes(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns bands [H, W, C], three at a time as the colours of an image, the rest one by one."""
    threes = pixels.shape[2] // 3 * 3
    parts = [pixels[..., start : start + 3] for start in range(0, threes, 3)]
    return parts + [pixels[..., band] for band in range(threes, pixels.shape[2])]


def on_picture(pixels: np.ndarray, change: Change, apart: bool = False) -> np.ndarray:
    """Applies a function of Pillow images to pixels.

    Args:
      pixels: [H, W] or [H, W, C] uint8.
      change: does the same to each colour of an RGB image, as resizing does.
      apart: whether channels are bands; if not, they are grey, grey and alpha, RGB or RGBA, and
        alpha weighs colours.

    Returns:
      [H', W'] uint8 of one channel, [H', W', C] of several.
    """
    if not apart or pixels.ndim == 2:
        return np.asarray(change(Image.fromarray(pixels)))
    return np.dstack([np.asarray(change(Image.fromarray(part))) for part in in_threes(pixels)])


def on_bands(pixels: np.ndarray, change: Change) -> np.ndarray:
    """Applies a function of grey Pillow images to each channel of [H, W, C] uint8: [H', W', C]."""
    bands = [Image.fromarray(pixels[..., band]) for band in range(pixels.shape[2])]
    return np.dstack([np.asarray(change(band)) for band in bands])
