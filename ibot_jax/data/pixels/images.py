"""From a file to pixels: the size of an image first, its pixels, at any of some scales, after.

Here bytes become an array [H, W, C] of 8 bits, whatever they are. Pillow opens what is a picture,
and has the last word on what is corrupt. Plain JPEGs, most of any photo collection, are decoded by
libjpeg-turbo straight into an array, with the same result. Files of numbers, of other types or of
more channels, are rasters: `npy`, `tiff` and `dicom` open them.
"""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from ibot_jax.config.defaults import MAX_PIXELS
from ibot_jax.config.section import Section
from ibot_jax.data.pixels import dicom, levels, npy, restarts, tiff
from ibot_jax.data.pixels.pictures import on_picture
from ibot_jax.data.pixels.raster import Raster, chosen_frame
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels
SHRINKS = (8, 4, 2, 1)  # that libjpeg-turbo decodes faster than the whole
_ORIENTATION = 0x0112  # EXIF's tag
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # TIFF's tag, and its value
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
_DARK = 2**6  # of 256 levels: colours below were meant for 14 bits or fewer

_pillows_limit = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become pixels; docs/data.md has the rules.

    Attributes:
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), to which images are converted; or
        more, which they have.
      range: the number that is white in images of more than 8 bits; 0 is 65535, and no number of
        floats.
      exif: whether images are turned as their EXIF orientation says.
      max_pixels: larger images are not read.
      bands: whether up to four channels are bands, too, which images have.
      clip_percentiles: of the numbers of a channel, those that are black and white; (0, 0) goes by
        the range.
      window: centre and width of what is shown of a DICOM file; of width 0 it is the file's.
    """

    channels: int = 3
    range: float = 0.0
    exif: bool = False
    max_pixels: int = MAX_PIXELS
    bands: bool = False
    clip_percentiles: tuple[float, float] = (0.0, 0.0)
    window: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, data: Section) -> "Decoding":
        """Returns what the section `data` of a config says."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})

    @property
    def apart(self) -> bool:
        """Whether channels are bands, such as a satellite's, each a grey of its own."""
        return self.channels > 4 or (self.bands and self.channels > 1)


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
        self._decoding = decoding
        self._raster = _open_raster(excerpt, decoding)
        if self._raster is None:
            self._image = _open_picture(excerpt)
            self.width, self.height = self._image.size
            self.mode = self._image.mode
        else:
            self.width, self.height = self._raster.width, self._raster.height
            self.mode = f"{self._raster.channels} x {self._raster.kind}"
        if self._box is not None:
            _check_inside(self._box, self.height, self.width)
            if self._raster is not None or self._image.format == "TIFF":  # in tiles, most likely
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
            return self._upright(_clipped(pixels, self._decoding))
        pixels = self._decode(needed)
        if shrink > 1:
            apart = self._decoding.apart
            pixels = on_picture(pixels, lambda image: image.reduce(shrink), apart)
        return self._upright(pixels)

    def _decode_jpeg(self, shrink: int, boxes: Sequence[Box]) -> np.ndarray | None:
        """Returns the pixels of a plain JPEG, [H / shrink, W / shrink, 3]; None of other images."""
        if self._raster is not None or isinstance(self._data, Image.Image):
            return None
        plain = (self._image.format, self._image.mode, self._decoding.channels)
        if plain != ("JPEG", "RGB", 3):
            return None
        data = self._data if isinstance(self._data, bytes) else _file(self._data).read()
        width, height = self._image.size
        # Of what it doubts Pillow accepts a part, and names the fault of the rest.
        with contextlib.suppress(ValueError):
            if self._box is None:
                return _decode_rows(data, height, width, shrink, boxes)
            pixels = self._cut(_decode_rows(data, height, width, 1, boxes))
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
            pixels, self.note = _to_levels(values, raster.limits, decoding, boxes)
            return _of_channels(pixels, decoding)
        if dark := _has_deep_colors(self._image):  # which loading makes it forget
            dark = max(high for _, high in self._image.convert("RGB").getextrema()) < _DARK
        pixels = self._cut(np.asarray(to_channels(self._image, decoding)))
        if dark:
            self.note = (
                "its 16-bit colours are dark, at most a quarter of what 16 bits hold; if that is "
                "not meant, data.range (--range) says what is white"
            )
        return _clipped(pixels, decoding)

    def _tiles(self, boxes: Sequence[Box]) -> Raster | None:
        """Returns a picture in tiles of which the boxes need few, None if it is no such."""
        if not boxes or self._image.format != "TIFF":
            return None
        return tiff.open_tiles(_file(self._data), self._frame or 0, boxes)

    def _deep_values(self) -> Raster | None:
        """Returns a picture of more than 8 bits, None where 8 will do."""
        image = self._image
        if image.mode == "F" or image.mode.startswith("I"):  # "I;16" and its relatives, "I": 32
            return Raster.of(np.asarray(image)[..., None])
        ranged = self._decoding.range or any(self._decoding.clip_percentiles)
        encoded = not isinstance(self._data, Image.Image)
        if ranged and encoded and image.format == "PNG" and _has_deep_colors(image):
            return Raster.of(_both_bytes(image, _open_picture(Excerpt(self._data))))
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
        if not self._decoding.exif or self._box is not None:
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


def to_channels(image: Image.Image, decoding: Decoding) -> Image.Image:
    """Converts a picture of 8 bits to as many channels as are wanted.

    Alpha is dropped, not blended, where it is not wanted, and opaque where it is wanted but
    missing.

    Raises:
      UnreadableImage: where channels are bands, and it has others.
    """
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if decoding.apart:
        image = image if image.mode in MODES.values() else image.convert("RGB")
        _check_channels(len(image.getbands()), decoding)
        return image
    mode = MODES[decoding.channels]
    return image if image.mode == mode else image.convert(mode)


def _of_channels(pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Returns pixels [H, W, C] with the channels that are wanted, [H, W] of one; likewise."""
    found = pixels.shape[2]
    plain = pixels[..., 0] if found == 1 else pixels
    if found == decoding.channels:
        return plain
    if found not in MODES or decoding.apart:
        _check_channels(found, decoding)
    return np.asarray(to_channels(Image.fromarray(plain), decoding))


def _check_channels(found: int, decoding: Decoding) -> None:
    if found != decoding.channels:
        raise UnreadableImage(
            f"it has {found} channels, and images here have data.channels={decoding.channels}"
        )


def _decode_rows(
    data: bytes, height: int, width: int, shrink: int, boxes: Sequence[Box]
) -> np.ndarray:
    """Returns the pixels of a JPEG, [H / shrink, W / shrink, 3]; of few boxes only their rows."""
    size = -(-height // shrink), -(-width // shrink)
    first = min((box.top for box in boxes), default=0)
    last = min(max((box.top + box.height for box in boxes), default=height), height)
    found = restarts.rows_of(data, first, last) if 2 * (last - first) <= height else None
    if found is None:
        return simplejpeg.decode_jpeg(data, min_height=size[0], min_width=size[1])
    data, top = found
    rows = simplejpeg.decode_jpeg_header(data)[0]
    part = simplejpeg.decode_jpeg(data, min_height=-(-rows // shrink), min_width=size[1])
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[top // shrink :][: len(part)] = part
    return pixels


def _to_levels(
    values: np.ndarray,
    limits: tuple[float, float] | None,
    decoding: Decoding,
    boxes: Sequence[Box] = (),
) -> tuple[np.ndarray, str]:
    """Returns numbers [H, W, C], or those in boxes, as uint8, and what is odd about them, or ""."""
    if boxes:
        pixels, notes = np.zeros(values.shape, np.uint8), []
        for top, left, height, width in boxes:
            part = slice(top, top + height), slice(left, left + width)
            pixels[part], note = _to_levels(values[part], limits, decoding)
            notes.append(note)
        return pixels, next(filter(None, notes), "")
    if any(decoding.clip_percentiles):
        colors = values.shape[2] - (not decoding.apart and values.shape[2] in (2, 4))
        return levels.by_percentiles(values, decoding.clip_percentiles, colors), ""
    if limits is not None:
        return levels.between(values, *limits), ""
    return levels.by_range(values, decoding.range)


def _clipped(pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Returns pixels, [H, W] or [H, W, C] uint8, as `Decoding.clip_percentiles` says."""
    if not any(decoding.clip_percentiles):
        return pixels
    clipped, _ = _to_levels(pixels.reshape(*pixels.shape[:2], -1), None, decoding)
    return clipped.reshape(pixels.shape)


def _file(data: bytes | BinaryIO) -> BinaryIO:
    """Returns a file at its beginning."""
    if isinstance(data, bytes):
        return io.BytesIO(data)
    data.seek(0)
    return data


def _open_raster(excerpt: Excerpt, decoding: Decoding) -> Raster | None:
    """Opens an array or a file of numbers, None where it is a picture for Pillow."""
    data, frame = excerpt.data, excerpt.frame
    if isinstance(data, Image.Image):
        return None
    if isinstance(data, np.ndarray):
        values = data if data.ndim == 3 else data[..., None]
        plain = values.dtype == np.uint8 and values.shape[2] in MODES and not decoding.apart
        return None if plain else Raster.of(values)
    begin = data[:132] if isinstance(data, bytes) else _file(data).read(132)
    channels = decoding.channels if decoding.apart else 0
    if begin.startswith(npy.MAGIC):
        return npy.open_npy(_file(data), decoding.channels, frame)
    if begin[dicom.MAGIC_AT :] == dicom.MAGIC:
        return dicom.open_dicom(_file(data), channels, frame, decoding.window, decoding.range)
    if begin.startswith(tiff.MAGIC) and (decoding.apart or _is_beyond_pillow(excerpt, decoding)):
        return tiff.open_tiff(_file(data), channels, frame)
    return None


def _is_beyond_pillow(excerpt: Excerpt, decoding: Decoding) -> bool:
    """Tells TIFFs that Pillow does not know, or whose colours have more bits than it keeps."""
    try:
        image = _open_picture(excerpt)
    except UnreadableImage:
        return True
    if image.mode == "I" and image.tag_v2.get(_SAMPLE_FORMAT, 1) == _UNSIGNED:
        return True  # of 32 bits, which Pillow takes for signed ones
    if image.mode == "F" and "nan" in str(image.tag_v2.get(tiff.MISSING)).lower():
        return True  # it does not know what is missing
    ranged = decoding.range or any(decoding.clip_percentiles)
    return bool(ranged) and _has_deep_colors(image)


def _open_picture(excerpt: Excerpt) -> Image.Image:
    data = excerpt.data
    if isinstance(data, Image.Image):
        return data
    if isinstance(data, np.ndarray):
        return Image.fromarray(data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data)
    file = _file(data)
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


def _has_deep_colors(image: Image.Image) -> bool:
    """Tells colours of 16 bits, of which Pillow keeps the upper byte."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in tiles)


def _both_bytes(high: Image.Image, low: Image.Image) -> np.ndarray:
    """Returns the colours of a PNG of 16 bits that is opened twice, [H, W, C] uint16.

    Pillow keeps the upper byte of each number, and takes the lower one for it where it is told that
    this comes first.
    """
    low.tile = [tile._replace(args=tile.args.replace("16B", "16L")) for tile in low.tile]
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)


def _check_inside(box: Box, height: int, width: int) -> None:
    if box.top + box.height > height or box.left + box.width > width:
        raise UnreadableImage(
            f"it has {width} x {height} pixels, and none in the window x={box.left} y={box.top} "
            f"w={box.width} h={box.height}"
        )
