"""RandAugment: a few random operations on one image, with Pillow.

Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space"
(2020), in the form of DeiT, BEiT and the original ("rand-m9-mstd0.5-inc1" of timm): all that has a
strength grows with the magnitude, and each operation drawn is left out half of the time.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 10.0
APPLIED = 0.5  # probability of an operation that was drawn

Fill = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Draws operations and applies them.

    Attributes:
      ops: how many are drawn, with replacement; 0 changes nothing.
      magnitude: mean strength, 0 to 10.
      magnitude_std: its standard deviation, operation by operation.
      fill: what moves in from outside, a level for each channel.
    """

    ops: int
    magnitude: float
    magnitude_std: float
    fill: tuple[int, ...]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Returns an image of mode "L" or "RGB" changed by operations that are drawn from `rng`."""
        fill = self.fill[0] if image.mode == "L" else self.fill
        for name in rng.choice(list(OPERATIONS), self.ops):
            magnitude = np.clip(rng.normal(self.magnitude, self.magnitude_std), 0, MAX_MAGNITUDE)
            sign = 1 if rng.random() < 0.5 else -1
            if rng.random() < APPLIED:
                image = OPERATIONS[name](image, sign * float(magnitude) / MAX_MAGNITUDE, fill)
        return image


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    """Moves pixels; `matrix` maps places of the result to those of the image, row by row."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill
    )


def _enhance(kind: Callable, image: Image.Image, amount: float) -> Image.Image:
    """Moves away from, or towards, what the image would be at factor 0."""
    return kind(image).enhance(max(0.1, 1 + 0.9 * amount))


def _solarize_add(image: Image.Image, added: int) -> Image.Image:
    """Brightens the darker half of all levels."""
    table = [min(255, level + added) if level < 128 else level for level in range(256)]
    return image.point(table * len(image.getbands()))


# Functions of the image, the signed strength from -1 to 1 (where direction has no meaning, only its
# size counts), and the colour of what moves in from outside.
OPERATIONS: dict[str, Callable[[Image.Image, float, Fill], Image.Image]] = {
    "auto_contrast": lambda image, amount, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, amount, fill: ImageOps.equalize(image),
    "invert": lambda image, amount, fill: ImageOps.invert(image),
    "posterize": lambda image, amount, fill: ImageOps.posterize(
        image, max(1, 4 - int(4 * abs(amount)))
    ),
    "solarize": lambda image, amount, fill: ImageOps.solarize(image, 256 - int(256 * abs(amount))),
    "solarize_add": lambda image, amount, fill: _solarize_add(image, int(110 * abs(amount))),
    "color": lambda image, amount, fill: _enhance(ImageEnhance.Color, image, amount),
    "contrast": lambda image, amount, fill: _enhance(ImageEnhance.Contrast, image, amount),
    "brightness": lambda image, amount, fill: _enhance(ImageEnhance.Brightness, image, amount),
    "sharpness": lambda image, amount, fill: _enhance(ImageEnhance.Sharpness, image, amount),
    "rotate": lambda image, amount, fill: image.rotate(
        30 * amount, Image.Resampling.BICUBIC, fillcolor=fill
    ),
    "shear_x": lambda image, amount, fill: _affine(image, (1, 0.3 * amount, 0, 0, 1, 0), fill),
    "shear_y": lambda image, amount, fill: _affine(image, (1, 0, 0, 0.3 * amount, 1, 0), fill),
    "translate_x": lambda image, amount, fill: _affine(
        image, (1, 0, 0.45 * amount * image.width, 0, 1, 0), fill
    ),
    "translate_y": lambda image, amount, fill: _affine(
        image, (1, 0, 0, 0, 1, 0.45 * amount * image.height), fill
    ),
}
