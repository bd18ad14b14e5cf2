"""Pictures of a segmentation: beside the image and its annotation, and masks of classes."""

import colorsys

import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate.benchmarks.image_files import as_colors, write_png
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, Split, nearest
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.processes import is_first

_GOLDEN = 0.618  # of a turn, by which the hues of classes differ


class Pictures:
    """FOLDER/NAME.png of the first test images, which the first process writes; all end alike."""

    def __init__(self, folder: epath.Path, number: int, test: Split, decoding: Decoding):
        """Names the folder.

        Args:
          folder: FOLDER, below --out.
          number: how many pictures are written.
          test: the images.
          decoding: how they become pixels.
        """
        self._folder, self._number = folder, number
        self._test, self._decoding = test, decoding
        self._colors = colors(test.num_classes)

    def write(self, index: int, found: np.ndarray) -> None:
        """Writes one of an image if it is among the first.

        Args:
          index: of the image.
          found: classes, [H, W] uint8, of any size.

        Raises:
          UserError: if it cannot be written, or the image not be read.
        """
        if index >= self._number:
            return
        with same_end():
            if is_first():
                pixels, truth = self._test.read(index, self._decoding)
                found = nearest(found, *truth.shape)
                parts = as_colors(pixels), self._colors[truth], self._colors[found]
                sheet = Image.fromarray(np.concatenate(parts, axis=1))
                write_png(sheet, self._folder / f"{self._test.images[index].stem}.png", "--out")


def as_mask(found: np.ndarray, classes: int) -> Image.Image:
    """Returns an image whose values are classes, [H, W] uint8, and whose palette shows them.

    Args:
      found: the classes of pixels.
      classes: how many there are.
    """
    image = Image.fromarray(found)
    image.putpalette(colors(classes).tobytes())
    return image


def colors(classes: int) -> np.ndarray:
    """Returns a colour for each value of a label, [256, 3] uint8; black for `IGNORED`."""
    table = np.zeros((IGNORED + 1, 3), np.uint8)
    for number in range(classes):
        light = (0.95, 0.75, 0.55)[number % 3]
        table[number] = np.round(
            255 * np.array(colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.7, light))
        )
    return table
