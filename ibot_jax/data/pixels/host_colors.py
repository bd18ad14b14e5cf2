"""Colours of one view on the host, to the byte what torchvision makes of a Pillow image."""

import numpy as np
from PIL import Image, ImageFilter

from ibot_jax.kernels.color_table import SOLARIZE_THRESHOLD, Color

_SOLARIZE_TABLE = [i if i < SOLARIZE_THRESHOLD else 255 - i for i in range(256)]


def apply_color(image: Image.Image, color: Color) -> Image.Image:
    """Flips a view and changes its colours; an alpha channel is only flipped.

    Args:
      image: of mode "L", "LA", "RGB" or "RGBA".
      color: what happens to it.
    """
    if color.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if image.mode not in ("LA", "RGBA"):
        return _recolor(image, color)
    recolored = _recolor(image.convert(image.mode[:-1]), color)
    recolored.putalpha(image.getchannel("A"))
    return recolored


def _recolor(image: Image.Image, color: Color) -> Image.Image:
    for name, factor in color.jitter:
        image = adjust(image, name, factor)
    if color.gray:
        image = image.convert("L").convert(image.mode)
    if color.blur_radius:
        image = image.filter(ImageFilter.GaussianBlur(color.blur_radius))
    if color.solarize:
        image = image.point(_SOLARIZE_TABLE * len(image.getbands()))
    return image


def adjust(image: Image.Image, name: str, factor: float) -> Image.Image:
    """Applies one operation of the colour jitter, as torchvision does on Pillow images.

    All but the hue blend the image with what it would be at factor 0: black, its mean grey, or
    its own grey; factors above 1 extrapolate.

    Args:
      image: of mode "L" or "RGB"; grey has neither saturation nor hue, and is returned as it is.
      name: one of `JITTER`.
      factor: 1 leaves the image as it is; for the hue, turns of the colour wheel from -0.5 to 0.5.
    """
    if name == "brightness":
        return Image.blend(Image.new(image.mode, image.size), image, factor)
    if name == "contrast":
        mean = int(np.asarray(image.convert("L")).mean() + 0.5)
        return Image.blend(Image.new("L", image.size, mean).convert(image.mode), image, factor)
    if image.mode == "L":
        return image
    if name == "saturation":
        return Image.blend(image.convert("L").convert("RGB"), image, factor)
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # wraps around, as hues do
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")
