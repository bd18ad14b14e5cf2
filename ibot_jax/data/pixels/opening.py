"""Files of images, opened: as a picture of Pillow, or as a raster of numbers."""

import dataclasses
import io
import threading
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ibot_jax.data.pixels import dicom, npy, tiff
from ibot_jax.data.pixels.decoding import MODES, Decoding
from ibot_jax.data.pixels.raster import Raster, chosen_frame
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage

_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # TIFF's tag, and its value

_pillows_limit = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A part of a file that is an image of its own.

    Attributes:
      data: the file that holds it, or what that holds.
      frame: page of a TIFF, frame of an animation or of a DICOM file, place along the first axis
        of an array; None is the first.
      box: what is cut out, which is not turned by EXIF; None is all.
    """

    data: bytes | np.ndarray | BinaryIO | Image.Image
    frame: int | None = None
    box: Box | None = None


def as_file(data: bytes | BinaryIO) -> BinaryIO:
    """Returns a file at its beginning."""
    if isinstance(data, bytes):
        return io.BytesIO(data)
    data.seek(0)
    return data


def open_raster(excerpt: Excerpt, decoding: Decoding) -> Raster | None:
    """Opens an array or a file of numbers, None where it is a picture for Pillow."""
    data, frame = excerpt.data, excerpt.frame
    if isinstance(data, Image.Image):
        return None
    if isinstance(data, np.ndarray):
        values = data if data.ndim == 3 else data[..., None]
        plain = values.dtype == np.uint8 and values.shape[2] in MODES and not decoding.apart
        return None if plain else Raster.of(values)
    begin = data[:132] if isinstance(data, bytes) else as_file(data).read(132)
    channels = decoding.channels if decoding.apart else 0
    if begin.startswith(npy.MAGIC):
        return npy.open_npy(as_file(data), decoding.channels, frame)
    if begin[dicom.MAGIC_AT :] == dicom.MAGIC:
        return dicom.open_dicom(as_file(data), channels, frame, decoding.window, decoding.range)
    if begin.startswith(tiff.MAGIC) and (decoding.apart or _is_beyond_pillow(excerpt, decoding)):
        return tiff.open_tiff(as_file(data), channels, frame)
    return None


def _is_beyond_pillow(excerpt: Excerpt, decoding: Decoding) -> bool:
    """Tells TIFFs that Pillow does not know, or whose colours have more bits than it keeps."""
    try:
        image = open_picture(excerpt)
    except UnreadableImage:
        return True
    if image.mode == "I" and image.tag_v2.get(_SAMPLE_FORMAT, 1) == _UNSIGNED:
        return True  # of 32 bits, which Pillow takes for signed ones
    if image.mode == "F" and "nan" in str(image.tag_v2.get(tiff.MISSING)).lower():
        return True  # it does not know what is missing
    return decoding.rescales and has_deep_colors(image)


def open_picture(excerpt: Excerpt) -> Image.Image:
    """Opens a picture with Pillow.

    Raises:
      UnreadableImage: if it is none, or there is no such frame.
    """
    data = excerpt.data
    if isinstance(data, Image.Image):
        return data
    if isinstance(data, np.ndarray):
        return Image.fromarray(data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data)
    file = as_file(data)
    if not file.read(1):
        raise UnreadableImage("the file is empty")
    file.seek(0)
    try:
        # Pillow's own limit, one for all of a program, knows no remedy; `Decoding` has another.
        with _pillows_limit:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError:
        raise UnreadableImage("no image, or of an unknown format") from None
    if excerpt.frame:
        image.seek(chosen_frame(excerpt.frame, getattr(image, "n_frames", 1)))
    return image


def has_deep_colors(image: Image.Image) -> bool:
    """Tells colours of 16 bits, of which Pillow keeps the upper byte."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in tiles)


def both_bytes(high: Image.Image, low: Image.Image) -> np.ndarray:
    """Returns the colours of a PNG of 16 bits that is opened twice, [H, W, C] uint16.

    Pillow keeps the upper byte of each number, and takes the lower one for it where it is told that
    this comes first.
    """
    low.tile = [tile._replace(args=tile.args.replace("16B", "16L")) for tile in low.tile]
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
