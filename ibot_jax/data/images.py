"""From an encoded image to pixels: its size first, its pixels at a whole or a smaller scale after.

Pillow opens every image, and has the last word on what is corrupt. Plain JPEGs, most of any photo
collection, are decoded by libjpeg-turbo straight into an array, with the same result.
"""

import contextlib
import io

import numpy as np
import simplejpeg
from PIL import Image

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels
SHRINKS = (8, 4, 2, 1)  # that libjpeg-turbo decodes faster than the whole


class EncodedImage:
    """An image of whose file only the header has been read.

    Attributes:
      height: pixels.
      width: pixels.
    """

    def __init__(self, data: bytes | np.ndarray):
        """Opens an image.

        Args:
          data: a file that Pillow can read (PNG, JPEG, WebP, ...), whose first frame counts; or
            pixels, [H, W] or [H, W, C] uint8.

        Raises:
          Exception: of many kinds, Pillow's, where the header is corrupt or the image too large.
        """
        self._data = data
        if isinstance(data, np.ndarray):
            self._image = Image.fromarray(data)
        else:
            self._image = Image.open(io.BytesIO(data))
        self.width, self.height = self._image.size

    def decode(self, channels: int, shrink: int = 1) -> np.ndarray:
        """Returns the pixels; to be called once.

        As in the original (torchvision's `pil_loader`), an EXIF orientation is not applied.

        Args:
          channels: a key of `MODES`, to which the image is converted.
          shrink: of `SHRINKS`; how much smaller both sides of the result are, rounded up.

        Returns:
          [H / shrink, W / shrink] uint8 of one channel, or [H / shrink, W / shrink, C] of more.

        Raises:
          Exception: of many kinds, Pillow's, where the image is corrupt or truncated.
        """
        if (self._image.format, self._image.mode, channels) == ("JPEG", "RGB", 3):
            # Of what it doubts Pillow accepts a part, and names the fault of the rest.
            with contextlib.suppress(ValueError):
                return simplejpeg.decode_jpeg(
                    self._data,
                    min_height=-(-self.height // shrink),
                    min_width=-(-self.width // shrink),
                )
        self._image.load()
        image = to_channels(self._image, channels)
        return np.asarray(image.reduce(shrink) if shrink > 1 else image)


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
