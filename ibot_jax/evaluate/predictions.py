"""Writes what a model finds of the pixels of images: a file for each, and pictures for people.

    OUT/masks/NAME.png or OUT/depths/NAME.png
    OUT/pictures/NAME.png                         the image, and beside it what was found

NAME is that of the image below its folder or file, without its ending.
"""

import collections
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.data.make.bad_images import BadImages
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.data.sources.listing import EXTENSIONS
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.unlabelled import name_in_text
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import ahead, as_colors, write_png
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.screen.progress import progress


def write_predictions(
    pixels: PixelModel, source: Source, decoding: Decoding, out: epath.Path, pictures: int
) -> int:
    """Writes what is found of all images that can be read; others are named and left out.

    Args:
      pixels: what finds it.
      source: the images.
      decoding: how they become pixels.
      out: the folder.
      pictures: of how many images there is one, the first.

    Returns:
      How many images there were.

    Raises:
      UserError: if two images would be written to one file, or one cannot be written.
    """
    names, shown = _targets(source), collections.deque()

    def images() -> Iterator[np.ndarray]:
        for index, image in enumerate(ahead(_reader(source, decoding), range(len(source)))):
            if image is not None:
                shown.append((index, as_colors(image) if index < pictures else None))
                yield image

    number = 0
    for found in progress(pixels.find(images()), len(source), pixels.finds):
        index, image = shown.popleft()
        write_png(pixels.as_image(found), out / pixels.finds / names[index], "--out")
        if image is not None:
            sheet = np.concatenate([image, pixels.as_colors(found)], axis=1)
            write_png(Image.fromarray(sheet), out / "pictures" / names[index], "--out")
        number += 1
    return number


def _reader(source: Source, decoding: Decoding) -> Callable[[int], np.ndarray | None]:
    """Returns a function of an image's number: its pixels [H, W, C] uint8, None of a bad one."""
    bad = BadImages(len(source), max_share=1.0)

    def read(index: int) -> np.ndarray | None:
        try:
            image = EncodedImage(source.fetch(source.locate(index)[0]), decoding)
            pixels = image.decode()
        except Exception as error:  # Pillow's are of many kinds
            bad.note_bad(source.describe(index), in_words(error))
            return None
        if image.note:
            bad.note_odd(source.describe(index), image.note)
        return pixels.reshape(*pixels.shape[:2], decoding.channels)

    return read


def _targets(source: Source) -> list[str]:
    """Returns the file of each image, relative.

    Raises:
      UserError: if two have the same.
    """
    found: dict[str, int] = {}
    for index in range(len(source)):
        parts = name_in_text(source, index).split("/")
        name = "/".join(part for part in parts if part not in ("", ".", ".."))
        stem, _, ending = name.rpartition(".")
        target = f"{stem if ending.lower() in EXTENSIONS else name}.png"
        first = found.setdefault(target, index)
        if first != index:
            raise UserError(
                f"{source.describe(first)} and {source.describe(index)} would both be written to "
                f"{target}; give them different names"
            )
    return list(found)
