"""Pillow's operations on arrays of pixels, whatever their number of channels."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Change = Callable[[Image.Image], Image.Image]


def planes(pixels: np.ndarray, apart: bool) -> list[np.ndarray]:
    """Returns the images that pixels are to be resized as.

    Args:
      pixels: [H, W] or [H, W, C] uint8.
      apart: whether channels are bands, which are taken three at a time as colours, the rest one by
        one; if not, they are grey, grey and alpha, RGB or RGBA, and alpha weighs colours.
    """
    if not apart or pixels.ndim == 2:
        return [pixels]
    threes = pixels.shape[2] // 3 * 3
    parts = [pixels[..., start : start + 3] for start in range(0, threes, 3)]
    parts += [pixels[..., band] for band in range(threes, pixels.shape[2])]
    return list(map(np.ascontiguousarray, parts))


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the images of `planes` as one again, [H, W] or [H, W, C]."""
    return parts[0] if len(parts) == 1 else np.dstack(parts)


def on_picture(pixels: np.ndarray, change: Change, apart: bool = False) -> np.ndarray:
    """Applies a function of Pillow images to pixels.

    Args:
      pixels: [H, W] or [H, W, C] uint8.
      change: does the same to each colour of an RGB image, as resizing does.
      apart: as of `planes`.

    Returns:
      [H', W'] uint8 of one channel, [H', W', C] of several.
    """
    return joined([np.asarray(change(Image.fromarray(part))) for part in planes(pixels, apart)])


def on_bands(pixels: np.ndarray, change: Change) -> np.ndarray:
    """Applies a function of grey Pillow images to each channel of [H, W, C] uint8: [H', W', C]."""
    bands = [Image.fromarray(pixels[..., band]) for band in range(pixels.shape[2])]
    return np.dstack([np.asarray(change(band)) for band in bands])
