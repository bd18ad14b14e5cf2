"""What is drawn for the views of an image: a crop, and what happens to its colours.

The original composes torchvision transforms (`DataAugmentationiBOT`): random resized crop, flip,
colour jitter in random order, grey, Gaussian blur, solarisation. Here what is drawn is kept apart
from what is done with it, which is deterministic, on the host or on the accelerator. Geometry and
colour have separate streams, so that neither depends on the other's settings.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ibot_jax.config.section import Section
from ibot_jax.data.draw.crops import draw_crop
from ibot_jax.data.pixels.resize import Box
from ibot_jax.kernels.color_table import JITTER, Color


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

    @functools.cached_property
    def jitter_ranges(self) -> tuple[tuple[float, float] | None, ...]:
        """Smallest and largest factor of each operation of `JITTER`, None where it is left out.

        As in torchvision's `ColorJitter`, a factor lies in [max(0, 1 - x), 1 + x], the hue shift in
        [-x, x], and an operation with x = 0 is left out.
        """
        spreads = [(name, getattr(self, name)) for name in JITTER]
        return tuple(
            None if not x else (-x, x) if name == "hue" else (max(0, 1 - x), 1 + x)
            for name, x in spreads
        )


def view_settings(data: Section) -> tuple[list[ViewSettings], list[ViewSettings]]:
    """Reads the settings of each global and each local view from the section `data`.

    Blur and solarisation are configured for the first global view, the other global views and
    the local views.
    """
    shared = {
        key: getattr(data, key)
        for key in (*JITTER, "aspect", "flip", "jitter", "gray", "blur_radius")
    }

    def settings(size, scale, kind):
        own = dict(blur=data.blur[kind], solarize=data.solarize[kind])
        return ViewSettings(size=tuple(size), scale=tuple(scale), **own, **shared)

    first, other = (settings(data.global_size, data.global_scale, kind) for kind in (0, 1))
    local = settings(data.local_size, data.local_scale, 2)
    return [first, *[other] * (data.global_views - 1)], [local] * data.local_views


def draw_color(rng: np.random.Generator, settings: ViewSettings, flip: bool) -> Color:
    """Draws what happens to a view's colours; the flip comes from the crops' stream.

    Factors are uniform in their `jitter_ranges`, and come in a random order.
    """
    jitter = []
    if rng.random() < settings.jitter:
        for index in rng.permutation(len(JITTER)):
            if (limits := settings.jitter_ranges[index]) is not None:
                low, high = limits
                jitter.append((JITTER[index], low + (high - low) * rng.random()))
    gray = bool(rng.random() < settings.gray)
    low, high = settings.blur_radius
    blur_radius = low + (high - low) * rng.random() if rng.random() < settings.blur else 0.0
    solarize = bool(rng.random() < settings.solarize)
    return Color(flip, tuple(jitter), gray, blur_radius, solarize)


def draw_views(
    height: int,
    width: int,
    settings: Sequence[ViewSettings],
    crop_rng: np.random.Generator,
    color_rng: np.random.Generator,
) -> tuple[list[Box], list[Color]]:
    """Draws what is cut out of an image for each view, and what then happens to its colours.

    Args:
      height: of the image, pixels.
      width: of the image, pixels.
      settings: of each view.
      crop_rng: randomness of crops and flips.
      color_rng: randomness of colours.
    """
    boxes, colors = [], []
    for view in settings:
        boxes.append(draw_crop(crop_rng, height, width, view.scale, view.aspect))
        flip = bool(crop_rng.random() < view.flip)
        colors.append(draw_color(color_rng, view, flip))
    return boxes, colors
