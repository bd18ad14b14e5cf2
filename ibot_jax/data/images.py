"""From an encoded image to a Pillow image with the wanted number of channels."""

import io
from typing import BinaryIO

import numpy as np
from PIL import Image

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels


def decode(file: BinaryIO, channels: int) -> Image.Image:
    """Decodes the first frame of an image file that Pillow can read.

    As in the original (torchvision's `pil_loader`), an EXIF orientation is not applied.

    Args:
      file: PNG, JPEG, WebP, ...; may be closed afterwards.
      channels: a key of `MODES`.

    Raises:
      Exception: of many kinds, Pillow's, where the file is corrupt, truncated or too large.
    """
    image = Image.open(file)
    image.load()
    return to_channels(image, channels)


def decode_bytes(encoded: bytes, channels: int) -> Image.Image:
    """Decodes an image file that lies in memory, as `decode` does."""
    return decode(io.BytesIO(encoded), channels)


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts any image to 8 bits and 1 (grey), 2 (with alpha), 3 (RGB) or 4 (RGBA) channels.

    Of 16-bit greys the upper byte is kept (Pillow alone would clip them at 255); alpha is dropped,
    not blended, where it is not wanted, and opaque where it is wanted but missing.

    Raises:
      ValueError: for floating-point images, whose range is unknown.
    """
    mode = MODES[channels]
    if image.mode == mode:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # "I;16" and its relatives, or "I": 16 bits in 32
        image = Image.fromarray((np.clip(image, 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)
