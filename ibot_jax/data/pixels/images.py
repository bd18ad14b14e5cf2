"""From an encoded image to pixels: its size first, its pixels at a whole or a smaller scale after.

Pillow opens every image, and has the last word on what is corrupt. Plain JPEGs, most of any photo
collection, are decoded by libjpeg-turbo straight into an array, with the same result.
"""

import contextlib
import dataclasses
import io
import threading

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from ibot_jax.config.defaults import MAX_PIXELS
from ibot_jax.config.section import Section

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels
SHRINKS = (8, 4, 2, 1)  # that libjpeg-turbo decodes faster than the whole
_SIXTEEN_BITS = 2**16 - 1
# Below are the numbers of a camera or scanner with 14 bits or fewer, which nobody meant for 16.
_DARK = 2**14
_ORIENTATION = 0x0112  # EXIF's tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width

_pillows_limit = threading.Lock()


class UnreadableImage(Exception):
    """An image that cannot be read; the message says why, in words for people."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become pixels; docs/data.md has the rules.

    Attributes:
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), to which images are converted.
      range: the number that is white in greys of more than 8 bits; 0 is 65535, and no number of
        floats.
      exif: whether images are turned as their EXIF orientation says.
      max_pixels: larger images are not read.
    """

    channels: int = 3
    range: float = 0.0
    exif: bool = False
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, data: Section) -> "Decoding":
        """Returns what the section `data` of a config says."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})


class EncodedImage:
    """An image of whose file only the header has been read.

    Attributes:
      height: pixels.
      width: pixels.
      mode: Pillow's name of what the file has: "RGB", "L", "I;16", ...
      note: once it is decoded, what is odd about it and may not be meant; "" if nothing is.
    """

    def __init__(self, data: bytes | np.ndarray, decoding: Decoding):
        """Opens an image.

        Args:
          data: a file that Pillow can read (PNG, JPEG, WebP, ...), whose first frame counts; or
            pixels, [H, W] or [H, W, C] uint8.
          decoding: what becomes of it.

        Raises:
          Exception: of many kinds, Pillow's, where the header is corrupt or the image too large.
        """
        self.note = ""
        self._data = data
        self._decoding = decoding
        self._image = Image.fromarray(data) if isinstance(data, np.ndarray) else _open(data)
        self.width, self.height = self._image.size
        if self.width * self.height > decoding.max_pixels:
            raise UnreadableImage(
                f"{self.width:,} x {self.height:,} pixels are more than data.max_pixels="
                f"{decoding.max_pixels:,}; make it smaller, or raise the limit (--max-pixels of "
                "evaluations and figures)"
            )
        self.mode = self._image.mode
        self._turn = decoding.exif and self._image.getexif().get(_ORIENTATION, 1) != 1
        if self._turn and self._image.getexif()[_ORIENTATION] in _SIDEWAYS:
            self.width, self.height = self.height, self.width

    def decode(self, shrink: int = 1) -> np.ndarray:
        """Returns the pixels; to be called once.

        Args:
          shrink: of `SHRINKS`; how much smaller both sides of the result are, rounded up.

        Returns:
          [H / shrink, W / shrink] uint8 of one channel, or [H / shrink, W / shrink, C] of more.

        Raises:
          Exception: of many kinds, Pillow's, where the image is corrupt or truncated.
        """
        plain = (self._image.format, self._image.mode, self._decoding.channels)
        if plain == ("JPEG", "RGB", 3):
            # Of what it doubts Pillow accepts a part, and names the fault of the rest.
            with contextlib.suppress(ValueError):
                width, height = self._image.size
                pixels = simplejpeg.decode_jpeg(
                    self._data, min_height=-(-height // shrink), min_width=-(-width // shrink)
                )
                return self._upright(pixels)
        deep = _has_deep_colors(self._image)  # which loading makes it forget
        self._image.load()
        image, self.note = to_channels(self._image, self._decoding)
        if deep and max(high for _, high in image.convert("RGB").getextrema()) < _DARK >> 8:
            self.note = (
                "its 16-bit colours are dark, at most a quarter of what 16 bits hold; if that is "
                "not meant, convert it to 8 bits (data.range is for greys)"
            )
        return self._upright(np.asarray(image.reduce(shrink) if shrink > 1 else image))

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        if not self._turn:
            return pixels
        image = Image.fromarray(pixels)
        image.getexif()[_ORIENTATION] = self._image.getexif()[_ORIENTATION]
        return np.asarray(ImageOps.exif_transpose(image))


def to_channels(image: Image.Image, decoding: Decoding) -> tuple[Image.Image, str]:
    """Converts any image to 8 bits and as many channels as are wanted.

    Alpha is dropped, not blended, where it is not wanted, and opaque where it is wanted but
    missing.

    Returns:
      The image, and what is odd about it, "" if nothing is.

    Raises:
      UnreadableImage: where it holds floats whose range is not known, or no numbers.
    """
    mode, note = MODES[decoding.channels], ""
    if image.mode == "F" or image.mode.startswith("I"):  # "I;16" and its relatives, "I": 32 bits
        image, note = _to_eight_bits(np.asarray(image), decoding.range)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode), note


def in_words(error: Exception) -> str:
    """Returns why an image cannot be read, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UnreadableImage) else f"{type(error).__name__}: {text}"


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        # Pillow's own limit, one for all of a program, knows no remedy; `Decoding` has another.
        with _pillows_limit:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except UnidentifiedImageError:
        raise UnreadableImage("no image, or of an unknown format") from None


def _has_deep_colors(image: Image.Image) -> bool:
    """Tells colours of 16 bits, of which Pillow keeps the upper byte."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in tiles)


def _to_eight_bits(values: np.ndarray, white: float) -> tuple[Image.Image, str]:
    """Returns greys [H, W] of any type as 8 bits, and what is odd about them."""
    floats = values.dtype.kind == "f"
    if floats and not white:
        raise UnreadableImage(
            "floating-point pixels have no known range; data.range (--range) says what is white"
        )
    if floats and not np.isfinite(values).all():
        raise UnreadableImage("it holds values that are no finite numbers")
    low, high = values.min().item(), values.max().item()
    most, note = white or _SIXTEEN_BITS, ""
    if high > most:
        note = f"its values reach {high:g}: those above {most:g} are white (data.range, --range)"
    elif low < 0:
        note = f"its values reach {low:g}: those below 0 are black"
    elif not white and high < _DARK:
        likely = 2 ** max(int(high).bit_length(), 8) - 1
        note = (
            f"its values reach {high} of {most}, so it is dark; if that is not meant, "
            f"data.range={likely} (--range={likely}) makes {likely} white"
        )
    if floats or most != int(most):
        scaled = np.round(np.clip(values / most, 0, 1) * 255)
    else:  # of 16 bits the upper byte
        scaled = np.clip(values.astype(np.int64), 0, int(most)) * 256 // (int(most) + 1)
    return Image.fromarray(scaled.astype(np.uint8)), note
