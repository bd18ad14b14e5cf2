"""Views of images and of their depths to train on: turned, mirrored, cut out, changed in colour.

As in the Monocular Depth Estimation Toolbox, by whose pipelines DINOv2 trains its heads: those of
BTS, but that gamma is taken of values from 0 to 255 and not from 0 to 1.
"""

import numpy as np
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate.benchmarks.image_files import changed

Size = tuple[int, int]

_TURN = 2.5  # degrees, both ways
_GAMMA = (0.9, 1.1)
_COLORS = (0.9, 1.1)  # of each channel


def draw(
    pixels: np.ndarray,
    metres: np.ndarray,
    crop: Size,
    brightness: tuple[float, float],
    decoding: Decoding,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a crop of an image, [*crop, C] uint8, and of its depths, [*crop] float32.

    One in two is turned, one in two mirrored, one in two changed in colour.

    Args:
      pixels: the image, [H, W, C] uint8, no smaller than the crop.
      metres: its depths, [H, W] float32, 0 where there are none.
      crop: height and width.
      brightness: the least and the largest factor.
      decoding: how files become pixels.
      rng: of all that is drawn.
    """
    if rng.random() < 0.5:
        pixels, metres = turned(pixels, metres, rng.uniform(-_TURN, _TURN), decoding)
    if rng.random() < 0.5:
        pixels, metres = pixels[:, ::-1], metres[:, ::-1]
    starts = [
        int(rng.integers(side - wanted + 1))
        for side, wanted in zip(metres.shape, crop, strict=True)
    ]
    place = tuple(slice(start, start + side) for start, side in zip(starts, crop, strict=True))
    pixels, metres = pixels[place], metres[place]
    if rng.random() < 0.5:
        colors = rng.uniform(*_COLORS, pixels.shape[2])
        factors = rng.uniform(*brightness) * colors
        pixels = recolored(pixels, rng.uniform(*_GAMMA), factors)
    return pixels, metres


def turned(
    pixels: np.ndarray, metres: np.ndarray, degrees: float, decoding: Decoding
) -> tuple[np.ndarray, np.ndarray]:
    """Turns an image [H, W, C] uint8 and its depths [H, W] float32 around the middle.

    The image bilinearly, the depths by the nearest. Outside there is black, and no depth.

    Args:
      pixels: the image.
      metres: the depths.
      degrees: counter-clockwise.
      decoding: how files become pixels.
    """
    found = changed(
        pixels, lambda image: image.rotate(degrees, Image.Resampling.BILINEAR), decoding
    )
    depths = Image.fromarray(metres).rotate(degrees, Image.Resampling.NEAREST)
    return found, np.asarray(depths)


def recolored(pixels: np.ndarray, gamma: float, factors: np.ndarray) -> np.ndarray:
    """Returns pixels [H, W, C] uint8 to the power of gamma, times the factor of their channel."""
    table = np.arange(256.0)[:, None] ** gamma * factors
    table = np.clip(np.round(table), 0, 255).astype(np.uint8)
    return table[pixels, np.arange(pixels.shape[2])]
