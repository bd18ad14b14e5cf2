"""Squares of labelled images for segmentation in context: crops to remember, whole ones to test."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ibot_jax.data.draw.crops import draw_crop
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.data.pixels.resize import Box
from ibot_jax.evaluate.benchmarks.image_files import changed, share_batches
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, Split
from ibot_jax.kernels.color_table import JITTER, Color
from ibot_jax.parallel.shares import Rows

_SCALE, _ASPECT = (0.5, 2.0), (3 / 4, 4 / 3)
_JITTER = 0.1  # of brightness, contrast and saturation around 1, of hue around 0


@dataclasses.dataclass(frozen=True)
class Reader:
    """How images and their classes become squares: bilinear and antialiased, classes the nearest.

    Attributes:
      size: side of the squares, S pixels.
      decoding: how files become pixels.
      rows: of a batch of B that this process makes, b of them.
    """

    size: int
    decoding: Decoding
    rows: Rows

    def number(self, images: int) -> int:
        """Returns how many batches so many images make."""
        return -(-images // self.rows.batch_size)

    def crops(
        self, split: Split, epochs: int, seed: int, done: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of crops, `epochs` of each image, after `done`.

        Colours are changed, each operation for one image in two; then a box is cut out, of half of
        the area or more. Yields as `whole`.
        """

        def read(place: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            epoch, index = place
            rng = np.random.default_rng([seed, epoch, index])
            pixels, labels = split.read(index, self.decoding)
            color = draw_color(rng)
            pixels = changed(pixels, lambda image: apply_color(image, color), self.decoding)
            return self._cut(pixels, labels, draw_crop(rng, *labels.shape, _SCALE, _ASPECT))

        places = [(e, i) for e in range(epochs) for i in range(len(split))]
        return self._batches(read, places[done * self.rows.batch_size :])

    def whole(self, split: Split, done: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of whole images, in order, after `done`.

        Yields:
          Dicts of `images` [b, S, S, C] uint8, `labels` [b, S, S] uint8 and `valid` [b] bool, False
          for what fills up the last batch.
        """

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            pixels, labels = split.read(index, self.decoding)
            return self._cut(pixels, labels, Box(0, 0, *labels.shape))

        return self._batches(read, range(done * self.rows.batch_size, len(split)))

    def _batches(
        self, read: Callable[[Any], Sequence[np.ndarray]], items: Sequence
    ) -> Iterator[dict[str, np.ndarray]]:
        square = (self.size, self.size)
        pixels = np.zeros((*square, self.decoding.channels), np.uint8)
        blank = pixels, np.full(square, IGNORED, np.uint8)
        for (images, labels), valid in share_batches(read, items, blank, self.rows):
            yield {"images": images, "labels": labels, "valid": valid}

    def _cut(
        self, pixels: np.ndarray, labels: np.ndarray, box: Box
    ) -> tuple[np.ndarray, np.ndarray]:
        inside = (slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
        side = (self.size, self.size)
        squares = changed(
            np.ascontiguousarray(pixels[inside]),
            lambda image: image.resize(side, Image.Resampling.BILINEAR),
            self.decoding,
        )
        classes = Image.fromarray(np.ascontiguousarray(labels[inside]))
        return squares, np.asarray(classes.resize(side, Image.Resampling.NEAREST))


def draw_color(rng: np.random.Generator) -> Color:
    """Draws what happens to an image's colours: each operation by up to a tenth, or not at all."""
    jitter = []
    for name in JITTER:
        if rng.random() < 0.5:
            middle = 0.0 if name == "hue" else 1.0
            jitter.append((name, middle + float(rng.uniform(-_JITTER, _JITTER))))
    return Color(flip=False, jitter=tuple(jitter), gray=False, blur_radius=0.0, solarize=False)
