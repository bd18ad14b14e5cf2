"""From a file to pixels: the size of an image first, its pixels, at any of some scales, after.

Here bytes become an array [H, W, C] of 8 bits, whatever they are. Pillow opens what is a picture,
and has the last word on what is corrupt. JPEGs, most of any photo collection, are decoded by
libjpeg-turbo straight into an array, with the same result, and Pillow does not see the plain ones.
Files of numbers, of other types or of more channels, are rasters; `opening` tells them apart.
"""

import contextlib
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from ibot_jax.data.pixels import tiff
from ibot_jax.data.pixels.channels import of_channels, to_channels
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.jpeg import decode_rows, plain_size
from ibot_jax.data.pixels.levels import clipped, to_levels
from ibot_jax.data.pixels.opening import (
    Excerpt,
    as_file,
    both_bytes,
    has_deep_colors,
    open_picture,
    open_raster,
)
from ibot_jax.data.pixels.pictures import on_picture
from ibot_jax.data.pixels.raster import Raster
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage

SHRINKS = (8, 4, 2, 1)  # that libjpeg-turbo decodes faster than the whole
_ORIENTATION = 0x0112  # EXIF's tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
_DARK = 2**6  # of 256 levels: colours below were meant for 14 bits or fewer


class EncodedImage:
    """An image of whose file only the header has been read.

    Attributes:
      height: pixels.
      width: pixels.
      mode: of a picture Pillow's name of what the file has, "RGB", "L", "I;16", ...; of a raster
        channels and type.
      note: once it is decoded, what is odd about it and may not be meant; "" if nothing is.
    """

    def __init__(self, data: bytes | np.ndarray | Image.Image | Excerpt, decoding: Decoding):
        """Opens an image.

        Args:
          data: a file that Pillow can read (PNG, JPEG, WebP, ...), whose first frame counts, or an
            NPY, NPZ, TIFF or DICOM file; a part of one; what Pillow has opened; or numbers,
            [H, W] or [H, W, C].
          decoding: what becomes of it.

        Raises:
          Exception: of many kinds, Pillow's, where the header is corrupt or the image too large.
        """
        self.note = ""
        excerpt = data if isinstance(data, Excerpt) else Excerpt(data)
        self._data, self._frame, self._box = excerpt.data, excerpt.frame, excerpt.box
        self._excerpt, self._decoding = excerpt, decoding
        self._plain = _plain_size(excerpt, decoding)
        self._raster = None if self._plain else open_raster(excerpt, decoding)
        if self._plain:
            self.height, self.width = self._plain
            self.mode = "RGB"
        elif self._raster is None:
            self.width, self.height = self._image.size
            self.mode = self._image.mode
        else:
            self.width, self.height = self._raster.width, self._raster.height
            self.mode = f"{self._raster.channels} x {self._raster.kind}"
        if self._box is not None:
            _check_inside(self._box, self.height, self.width)
            picture = not self._plain and not self._raster
            if self._raster or (picture and self._image.format == "TIFF"):  # in tiles, most likely
                self.height, self.width = self._box.height, self._box.width
        if self.width * self.height > decoding.max_pixels:
            raise UnreadableImage(
                f"{self.width:,} x {self.height:,} pixels are more than data.max_pixels="
                f"{decoding.max_pixels:,}; make it smaller, or raise the limit (--max-pixels of "
                "evaluations and figures)"
            )
        if self._box is not None:
            self.height, self.width = self._box.height, self._box.width
        self._orientation = self._find_orientation()
        if self._orientation in _SIDEWAYS:
            self.width, self.height = self.height, self.width

    def decode(self, shrink: int = 1, boxes: Sequence[Box] = ()) -> np.ndarray:
        """Returns the pixels; to be called once.

        Args:
          shrink: of `SHRINKS`; how much smaller both sides of the result are, rounded up.
          boxes: of which alone pixels are needed; outside of them, they may be anything.

        Returns:
          [H / shrink, W / shrink] uint8 of one channel, or [H / shrink, W / shrink, C] of more.

        Raises:
          Exception: of many kinds, Pillow's, where the image is corrupt or truncated.
        """
        if any(self._decoding.clip_percentiles):
            boxes = ()  # they are those of the whole image
        needed = self._in_file(boxes, shrink)
        pixels = self._decode_jpeg(shrink, needed)
        if pixels is not None:
            return self._upright(clipped(pixels, self._decoding))
        pixels = self._decode(needed)
        if shrink > 1:
            apart = self._decoding.apart
            pixels = on_picture(pixels, lambda image: image.reduce(shrink), apart)
        return self._upright(pixels)

    @functools.cached_property
    def _image(self) -> Image.Image:
        """What Pillow opens, of a picture."""
        return open_picture(self._excerpt)

    def _decode_jpeg(self, shrink: int, boxes: Sequence[Box]) -> np.ndarray | None:
        """Returns the pixels of an RGB JPEG, [H / shrink, W / shrink, 3]; None of other images."""
        if self._raster is not None or isinstance(self._data, Image.Image):
            return None
        if not self._plain:
            kind = (self._image.format, self._image.mode, self._decoding.channels)
            if kind != ("JPEG", "RGB", 3):
                return None
        height, width = self._plain or self._image.size[::-1]
        data = self._data if isinstance(self._data, bytes) else as_file(self._data).read()
        # Of what it doubts Pillow accepts a part, and names the fault of the rest.
        with contextlib.suppress(ValueError):
            if self._box is None:
                return decode_rows(data, height, width, shrink, boxes)
            pixels = self._cut(decode_rows(data, height, width, 1, boxes))
            return on_picture(pixels, lambda image: image.reduce(shrink)) if shrink > 1 else pixels
        return None

    def _decode(self, boxes: Sequence[Box]) -> np.ndarray:
        """Returns the pixels at their whole scale, [H, W] or [H, W, C] uint8.

        Args:
          boxes: of the file that are needed; none for all of it.
        """
        decoding = self._decoding
        raster = self._raster or self._tiles(boxes) or self._deep_values()
        if raster is not None:
            values = self._cut(raster.read(boxes))
            area = sum(box.height * box.width for box in boxes)
            if self._box is not None or area > self.height * self.width:
                boxes = ()  # at once is quicker
            pixels, self.note = to_levels(values, raster.limits, decoding, boxes)
            return of_channels(pixels, decoding)
        if dark := has_deep_colors(self._image):  # which loading makes it forget
            dark = max(high for _, high in self._image.convert("RGB").getextrema()) < _DARK
        pixels = self._cut(np.asarray(to_channels(self._image, decoding)))
        if dark:
            self.note = (
                "its 16-bit colours are dark, at most a quarter of what 16 bits hold; if that is "
                "not meant, data.range (--range) says what is white"
            )
        return clipped(pixels, decoding)

    def _tiles(self, boxes: Sequence[Box]) -> Raster | None:
        """Returns a picture in tiles of which the boxes need few, None if it is no such."""
        if not boxes or self._image.format != "TIFF":
            return None
        return tiff.open_tiles(as_file(self._data), self._frame or 0, boxes)

    def _deep_values(self) -> Raster | None:
        """Returns a picture of more than 8 bits, None where 8 will do."""
        image = self._image
        if image.mode == "F" or image.mode.startswith("I"):  # "I;16" and its relatives, "I": 32
            return Raster.of(np.asarray(image)[..., None])
        encoded = not isinstance(self._data, Image.Image)
        deep = encoded and image.format == "PNG" and has_deep_colors(image)
        if deep and self._decoding.rescales:
            return Raster.of(both_bytes(image, open_picture(Excerpt(self._data))))
        return None

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        """Returns what is cut out of the file."""
        if self._box is None:
            return pixels
        top, left, height, width = self._box
        return pixels[top : top + height, left : left + width]

    def _in_file(self, boxes: Sequence[Box], shrink: int) -> list[Box]:
        """Returns which boxes of the file are needed, none for all of it."""
        if self._orientation != 1 or not (boxes or self._box):
            return []
        if not boxes:
            return [self._box]
        if shrink == 1 and self._box is None:
            return list(boxes)
        top, left = (0, 0) if self._box is None else (self._box.top, self._box.left)
        found = []
        for box in boxes:  # whole blocks of those that become a pixel
            ends = box.top + box.height, box.left + box.width
            first = [start // shrink * shrink for start in (box.top, box.left)]
            high, wide = (-(-end // shrink) * shrink for end in ends)
            found.append(Box(top + first[0], left + first[1], high - first[0], wide - first[1]))
        return found

    def _find_orientation(self) -> int:
        """Returns EXIF's number for how the image is to be turned, 1 if it is not."""
        if not self._decoding.exif or self._box is not None or self._plain:
            return 1
        if self._raster is not None:
            return self._raster.orientation
        return self._image.getexif().get(_ORIENTATION, 1)

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        if self._orientation == 1:
            return pixels

        def turned(image: Image.Image) -> Image.Image:
            image.getexif()[_ORIENTATION] = self._orientation
            return ImageOps.exif_transpose(image)

        return on_picture(pixels, turned, self._decoding.apart)


def _plain_size(excerpt: Excerpt, decoding: Decoding) -> tuple[int, int] | None:
    """Returns height and width of a plain JPEG that is to have its three channels, else None."""
    if not isinstance(excerpt.data, bytes) or excerpt.frame or decoding.channels != 3:
        return None
    return plain_size(excerpt.data, decoding.exif)


def _check_inside(box: Box, height: int, width: int) -> None:
    if box.top + box.height > height or box.left + box.width > width:
        raise UnreadableImage(
            f"it has {width} x {height} pixels, and none in the window x={box.left} y={box.top} "
            f"w={box.width} h={box.height}"
        )
