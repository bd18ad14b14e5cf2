"""The images that a figure shows: found, decoded, and made whole numbers of patches in size."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from ibot_jax.data.draw.central import FILTERS
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.pictures import on_picture
from ibot_jax.data.pixels.unreadable import UnreadableImage, in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.opening import Source, open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.files import remote
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.geometry import Geometry
from ibot_jax.weights.model import Model

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_NUMBER = 64  # pictures in a figure
_SOURCES = re.compile("digits$|synthetic(:|$)|folder:|tfds:")


class Files:
    """Image files that are named one by one; a `sources.Source` without labels."""

    fetch = staticmethod(read_file)
    labels = class_names = num_classes = None

    def __init__(self, paths: Sequence[str]):
        self.name = f"{len(paths)} files"
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def locate(self, index: int) -> tuple[str, int]:
        return self._paths[index], -1

    def describe(self, index: int) -> str:
        return self._paths[index]


def spread(number: int, length: int) -> np.ndarray:
    """Returns `number` indices, or all, spread evenly from 0 to length - 1."""
    return np.linspace(0, length - 1, min(number, length)).round().astype(int)


def open_images(args: argparse.Namespace, channels: int, *, labelled: bool = False) -> Source:
    """Opens what --data, --split and --data-dir name.

    Args:
      args: the flags.
      channels: of the images.
      labelled: whether a folder's classes matter; if not, every image below it is taken.

    Raises:
      UserError: if there is no such thing, it holds no images, or has no random access.
    """
    first, *others = args.images
    is_source = _SOURCES.match(first) is not None
    if not others and (is_source or _is_folder(first)):
        spec = first if is_source else f"folder:{_located(first)}"
        options = dict(data_dir=args.data_dir, channels=channels, labelled=labelled)
        source = open_source(spec, args.split, **options, key="--split")
        if isinstance(source, TfdsStream):
            raise UserError(
                f"--data={first} can be read from its beginning only; prepare it with "
                "--file_format=array_record"
            )
        return source
    for text in args.images:
        if not (remote.is_remote(text) or os.path.exists(_located(text))):
            raise UserError(
                f"--data={text} does not exist; give image files, a folder, or a source "
                "(digits, folder:PATH, tfds:NAME)"
            )
        if _is_folder(text):
            raise UserError(f"--data={text} is a folder; give one folder, or files alone")
        if _located(text) == _located(args.out):
            raise UserError(f"--out={args.out} is one of --data; choose another path")
    return Files([_located(text) for text in args.images])


def _located(text: str) -> str:
    """Returns a path that a user gives as absolute, a URL as it is."""
    return text if remote.is_remote(text) else str(absolute_path(text))


def _is_folder(text: str) -> bool:
    if remote.is_remote(text):
        return remote.is_folder(text)
    return os.path.isdir(_located(text))


def read_pictures(args: argparse.Namespace, model: Model) -> list[np.ndarray]:
    """Reads as many of the images as --number says, spread evenly over them, [H, W, C] uint8 each.

    Raises:
      UserError: if there are none that can be read, or more than a figure has room for.
    """
    source = open_images(args, model.config.data.channels)
    make = read_pixels(source, picture_size(args, model), model)
    return [pixels for _, pixels in readable(source, choose(args, source), make)]


def choose(args: argparse.Namespace, source: Source) -> np.ndarray:
    """Returns the indices of the images to show, by --number.

    Raises:
      UserError: if they are more than a figure has room for.
    """
    number = args.number
    if number is None:
        number = len(source) if isinstance(source, Files) else args.default_number
    if min(number, len(source)) > MAX_NUMBER:
        raise UserError(
            f"{number} images are more than the {MAX_NUMBER} that a figure has room for; give a "
            "smaller --number"
        )
    return spread(number, len(source))


def picture_size(args: argparse.Namespace, model: Model) -> int:
    """Returns the longer side of images for the model: --size, or twice that of training."""
    return args.size or 2 * max(model.view.size)


def readable(
    source: Source, indices: Iterable[int], make: Callable[[int], T]
) -> Iterator[tuple[int, T]]:
    """Yields (index, make(index)) of the images that can be read; names the others on stderr.

    Args:
      source: of the images.
      indices: of those that are wanted.
      make: raises any exception where an image will not do.

    Raises:
      UserError: if not one of them can be read.
    """
    skipped, found = [], False
    for index in indices:
        try:
            made = make(int(index))
        except Exception as error:  # Pillow's are of many kinds
            skipped.append(f"{source.describe(int(index))}: {in_words(error)}")
            continue
        found = True
        yield int(index), made
    if not found:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UserError(f"no image can be shown: {skipped[0]}{more}")
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)


def read_pixels(source: Source, size: int, model: Model) -> Callable[[int], np.ndarray]:
    """Returns a function from an index to the image as the model is to see it, [H, W, C] uint8."""
    decoding = Decoding.of(model.config.data)

    def read(index: int) -> np.ndarray:
        image = EncodedImage(source.fetch(source.locate(index)[0]), decoding)
        pixels = image.decode()
        if image.note:
            _log.warning("%s: %s", source.describe(index), image.note)
        return fit(pixels, size, model.geometry, model.view.interpolation, decoding.apart)

    return read


def view_size(model: Model, longer: int) -> tuple[int, int]:
    """Returns height and width of views like those of training, scaled to a longer side."""
    sides, least = model.view.size, model.geometry.stride
    height, width = model.geometry.nearest([side * longer / max(sides) for side in sides])
    return max(height, least), max(width, least)


def fit(
    pixels: np.ndarray,
    size: int,
    geometry: Geometry,
    interpolation: str = "bicubic",
    apart: bool = False,
) -> np.ndarray:
    """Resizes an image to `size` on its longer side, and both sides to whole patches.

    Args:
      pixels: [H, W] or [H, W, C] uint8.
      size: pixels.
      geometry: of the patches.
      interpolation: a key of `central.FILTERS`.
      apart: whether channels are bands.

    Returns:
      [H', W', C] uint8; its aspect ratio is the image's up to half a patch.

    Raises:
      UnreadableImage: if the image is smaller than a patch, before or after.
    """
    sides, patch = pixels.shape[:2], geometry.stride
    height, width = geometry.nearest([side * size / max(sides) for side in sides])
    if min(sides) < patch or not height * width:
        how = f", resized to {size}" if min(sides) >= patch else ""
        raise UnreadableImage(
            f"its {sides[1]} x {sides[0]} pixels{how} are smaller than a patch of {patch} x {patch}"
        )

    def resize(image: Image.Image) -> Image.Image:
        return image.resize((width, height), FILTERS[interpolation])

    return on_picture(pixels, resize, apart).reshape(height, width, -1)
