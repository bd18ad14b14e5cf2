"""Views of images and of the classes of their pixels: resized, cut and changed in colour.

As in mmsegmentation, whose pipelines iBOT, DINOv2 and DINOv3 use: bilinear without smoothing, crops
in which no class has too large a share, distorted colours. Labels go along by the nearest pixel.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate.benchmarks.image_files import changed, orders, share_batches
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, Split, nearest
from ibot_jax.parallel.shares import Rows

Size = tuple[int, int]

_MOST_OF_ONE_CLASS = 0.75  # of the pixels of a crop that count
_TRIES = 10  # of a crop
_BRIGHTNESS = 32  # of 255, both ways
_CONTRAST = (0.5, 1.5)  # and saturation
_HUE = 18 / 180  # of the circle, both ways


@dataclasses.dataclass(frozen=True)
class Crops:
    """How images are seen in training.

    Attributes:
      size: shorter side of images before their ratio, pixels.
      ratios: the least and the largest by which that is multiplied.
      crop: side of the squares that are cut out.
      fill: a pixel [C] uint8 where the image is smaller than the square.
      decoding: how files become pixels.
      rows: of a batch of B that this process makes, b of them.
    """

    size: int
    ratios: tuple[float, float]
    crop: int
    fill: np.ndarray
    decoding: Decoding
    rows: Rows

    def batches(
        self, split: Split, order: Sequence[int], seed: Sequence[int]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of crops.

        Args:
          split: what is read.
          order: indices of images, the same on all processes, whole batches.
          seed: of crops, with the index of the image.

        Yields:
          Dicts of `images` [b, S, S, C] uint8 and `labels` [b, S, S] uint8.
        """

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng([*seed, index])
            return self.draw(*split.read(index, self.decoding), rng)

        square = self.crop, self.crop
        blank = np.zeros((*square, self.decoding.channels), np.uint8), np.zeros(square, np.uint8)
        for (images, labels), _ in share_batches(read, order, blank, self.rows):
            yield {"images": images, "labels": labels}

    def from_step(self, split: Split, seed: int, done: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields `batches` of epoch after epoch, without end, after so many that are done."""
        for epoch, order in orders(len(split), self.rows.batch_size, seed, done):
            yield from self.batches(split, order, [seed, epoch])

    def draw(
        self, pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a crop of an image, [S, S, C] uint8, and of its labels, [S, S] uint8."""
        size = shorter_side(labels.shape, int(self.size * rng.uniform(*self.ratios)))
        pixels, labels = resized(pixels, size, self.decoding), nearest(labels, *size)
        place = _draw_place(labels, self.crop, rng)
        pixels, labels = pixels[place], labels[place]
        if rng.random() < 0.5:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        pixels = distorted(pixels, rng, self.decoding)
        images = np.broadcast_to(self.fill, (self.crop, self.crop, len(self.fill))).copy()
        images[: len(pixels), : pixels.shape[1]] = pixels
        classes = np.full((self.crop, self.crop), IGNORED, np.uint8)
        classes[: len(labels), : labels.shape[1]] = labels
        return images, classes


def shorter_side(size: Size, shortest: int) -> Size:
    """Returns height and width in proportion, the shorter side of which is `shortest`."""
    height, width = (int(side * shortest / min(size) + 0.5) for side in size)
    return height, width


def resized(pixels: np.ndarray, size: Size, decoding: Decoding) -> np.ndarray:
    """Resizes pixels [H, W, C] uint8: bilinear between the nearest four, also where they shrink."""
    (height, width), (rows, columns) = size, pixels.shape[:2]
    scale = (columns / width, 0, 0, 0, rows / height, 0)

    def resample(image: Image.Image) -> Image.Image:
        return image.transform(
            (width, height), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR
        )

    return changed(pixels, resample, decoding)


def _draw_place(labels: np.ndarray, crop: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Returns where to cut: of ten places the first in which no class has too large a share.

    If there is none, an eleventh.
    """

    def draw() -> tuple[slice, slice]:
        starts = [int(rng.integers(max(side - crop, 0) + 1)) for side in labels.shape]
        top, left = (slice(start, start + crop) for start in starts)
        return top, left

    place = draw()
    for _ in range(_TRIES):
        counts = np.bincount(labels[place].ravel(), minlength=256)[:IGNORED]
        if counts.max() < _MOST_OF_ONE_CLASS * counts.sum():
            break
        place = draw()
    return place


def distorted(pixels: np.ndarray, rng: np.random.Generator, decoding: Decoding) -> np.ndarray:
    """Changes the colours of pixels [H, W, C] uint8, each of these one time in two.

    Brightness, contrast, saturation, hue, and contrast last where it was not second. Of pixels that
    are no colours only brightness and contrast.
    """
    contrast_last = rng.random() < 0.5
    if rng.random() < 0.5:
        pixels = _scaled(pixels, 1, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    if not contrast_last and rng.random() < 0.5:
        pixels = _scaled(pixels, rng.uniform(*_CONTRAST), 0)
    saturation = rng.uniform(*_CONTRAST) if rng.random() < 0.5 else 1
    hue = rng.uniform(-_HUE, _HUE) if rng.random() < 0.5 else 0
    if pixels.shape[2] == 3 and not decoding.apart and (saturation, hue) != (1, 0):
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[..., 0] += np.uint8(round(256 * hue) % 256)  # a circle of 256 steps
        hsv[..., 1] = _scaled(hsv[..., 1], saturation, 0)
        image = Image.frombytes("HSV", pixels.shape[1::-1], hsv.tobytes())
        pixels = np.asarray(image.convert("RGB"))
    if contrast_last and rng.random() < 0.5:
        pixels = _scaled(pixels, rng.uniform(*_CONTRAST), 0)
    return pixels


def _scaled(pixels: np.ndarray, by: float, plus: float) -> np.ndarray:
    changed = pixels.astype(np.float32) * np.float32(by) + np.float32(plus)
    return np.clip(changed, 0, 255).astype(np.uint8)
