"""Multi-crop views of one image, exactly as the original cuts and colours them on the host.

The original composes torchvision transforms on Pillow images (`DataAugmentationiBOT`): random
resized crop, flip, colour jitter in random order, grey, Gaussian blur, solarisation. Here what is
drawn is kept apart from what is done with it: `draw_*` turn randomness into plain numbers, the
rest is deterministic. Geometry and colour have separate streams, so that colour can move to the
accelerator without the crops changing.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageFilter

SOLARIZE_THRESHOLD = 128
CROP_TRIES = 10
_SOLARIZE_TABLE = [i if i < SOLARIZE_THRESHOLD else 255 - i for i in range(256)]
JITTER = ("brightness", "contrast", "saturation", "hue")


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How one kind of view is made; `view_settings` reads it from the config.

    Attributes:
      size: height and width of the view, pixels.
      scale: smallest and largest crop area over image area.
      aspect: smallest and largest width over height of the crop.
      flip, jitter, gray, blur, solarize: probabilities.
      brightness, contrast, saturation: half-widths of the factor's range around 1.
      hue: half-width of the shift, in turns of the colour wheel.
      blur_radius: smallest and largest standard deviation, pixels.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    aspect: tuple[float, float]
    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray: float
    blur: float
    blur_radius: tuple[float, float]
    solarize: float


@dataclasses.dataclass(frozen=True)
class Color:
    """What happens to one view's colours, in this order.

    Attributes:
      jitter: (name of the operation, factor) pairs in the order of their application.
      gray: whether colours are dropped.
      blur_radius: standard deviation in pixels; 0 for none.
      solarize: whether pixels from `SOLARIZE_THRESHOLD` on are inverted.
    """

    jitter: tuple[tuple[str, float], ...]
    gray: bool
    blur_radius: float
    solarize: bool


def view_settings(data: ConfigDict) -> tuple[list[ViewSettings], list[ViewSettings]]:
    """Reads the settings of each global and each local view from `config.data`.

    Blur and solarisation are configured for the first global view, the other global views and
    the local views.
    """
    shared = {
        key: data[key] for key in (*JITTER, "aspect", "flip", "jitter", "gray", "blur_radius")
    }

    def settings(size, scale, kind):
        own = dict(blur=data.blur[kind], solarize=data.solarize[kind])
        return ViewSettings(size=tuple(size), scale=tuple(scale), **own, **shared)

    first, other = (settings(data.global_size, data.global_scale, kind) for kind in (0, 1))
    local = settings(data.local_size, data.local_scale, 2)
    return [first, *[other] * (data.global_views - 1)], [local] * data.local_views


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


def draw_color(rng: np.random.Generator, settings: ViewSettings) -> Color:
    """Draws what happens to a view's colours.

    As in torchvision's `ColorJitter`, a factor lies uniformly in [max(0, 1 - x), 1 + x], the hue
    shift in [-x, x], and an operation with x = 0 is left out.
    """
    jitter = []
    if rng.random() < settings.jitter:
        for index in rng.permutation(len(JITTER)):
            name = JITTER[index]
            spread = getattr(settings, name)
            if spread:
                low, high = (-spread, spread) if name == "hue" else (max(0, 1 - spread), 1 + spread)
                jitter.append((name, low + (high - low) * rng.random()))
    gray = bool(rng.random() < settings.gray)
    low, high = settings.blur_radius
    blur_radius = low + (high - low) * rng.random() if rng.random() < settings.blur else 0.0
    return Color(tuple(jitter), gray, blur_radius, bool(rng.random() < settings.solarize))


def crop_and_resize(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Cuts the box out and resizes it to `size` (height, width): bicubic, antialiased.

    Cut first: `Image.resize(box=...)` would let pixels outside the box bleed in.
    """
    right, bottom = box.left + box.width, box.top + box.height
    crop = image.crop((box.left, box.top, right, bottom))
    return crop.resize((size[1], size[0]), Image.Resampling.BICUBIC)


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


def apply_color(image: Image.Image, color: Color) -> Image.Image:
    """Changes the colours of a view; an alpha channel is kept as it is."""
    if image.mode in ("LA", "RGBA"):
        changed = apply_color(image.convert(image.mode[:-1]), color)
        changed.putalpha(image.getchannel("A"))
        return changed
    for name, factor in color.jitter:
        image = adjust(image, name, factor)
    if color.gray:
        image = image.convert("L").convert(image.mode)
    if color.blur_radius:
        image = image.filter(ImageFilter.GaussianBlur(color.blur_radius))
    if color.solarize:
        image = image.point(_SOLARIZE_TABLE * len(image.getbands()))
    return image


def make_views(
    image: Image.Image,
    settings: Sequence[ViewSettings],
    crop_rng: np.random.Generator,
    color_rng: np.random.Generator,
) -> list[Image.Image]:
    """Makes one view of the image for each entry of `settings`, in their order.

    Args:
      image: of mode "L", "LA", "RGB" or "RGBA".
      settings: of each view.
      crop_rng: randomness of crops and flips.
      color_rng: randomness of colours.

    Returns:
      Images of `settings[i].size` and of the image's mode.
    """
    views = []
    for view in settings:
        box = draw_crop(crop_rng, image.height, image.width, view.scale, view.aspect)
        flip = crop_rng.random() < view.flip
        cut = crop_and_resize(image, box, view.size)
        if flip:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(apply_color(cut, draw_color(color_rng, view)))
    return views


def central_view(image: Image.Image, resize: int, size: tuple[int, int]) -> Image.Image:
    """Resizes the shorter side and cuts out the centre, as evaluations do.

    torchvision's `Resize(resize, BICUBIC)`, `CenterCrop(size)`: the longer side is rounded down;
    where the crop is larger than the image, black surrounds it.

    Args:
      image: of any mode.
      resize: the shorter side, pixels.
      size: height and width of the crop, pixels.
    """
    short = min(image.size)
    width, height = (resize * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top = _central_offset(height, size[0])
    left = _central_offset(width, size[1])
    return image.crop((left, top, left + size[1], top + size[0]))


def _central_offset(side: int, crop: int) -> int:
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
