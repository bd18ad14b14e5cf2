"""TIFFs beyond what Pillow reads: many channels, any type, pages as channels, tiles one by one."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ibot_jax.data.pixels.raster import Raster, are_channels, chosen_frame
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage

if TYPE_CHECKING:
    import tifffile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NAME = "image.tif"  # which files that are opened by a number lack
_ORIENTATION = 274  # the tag
MISSING = 42113  # GDAL's, with the number of what is missing, in words
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)
_PLAIN = (_BLACK_IS_ZERO, _RGB)
_WITHOUT_LOSS = (1, 8, 32946)  # none, and zlib's


def open_tiff(file: BinaryIO, channels: int, frame: int | None) -> Raster:
    """Opens a TIFF.

    Args:
      file: of it.
      channels: that pages may have together; 0 if pages are never channels.
      frame: the page that is asked for; None is the first, or all as channels.

    Raises:
      UnreadableImage: if there is no such page, or it has a palette.
      Exception: of tifffile, of many kinds, where the file is corrupt.
    """
    import tifffile  # slow to import

    pages = tifffile.TiffFile(file, name=_NAME).pages
    first = pages[frame] if frame is not None and frame < len(pages) else pages[0]
    chosen = [first]
    if frame is not None:
        chosen_frame(frame, len(pages))
    elif first.samplesperpixel < channels:
        # Others are smaller copies, and masks.
        alike = [p for p in pages if (p.shape, p.dtype) == (first.shape, first.dtype)]
        if are_channels(len(alike), first.samplesperpixel, frame, channels):
            chosen = alike
    if first.photometric == _PALETTE:
        raise UnreadableImage("it has a palette, and no channels; convert it")
    if first.dtype is None or 1 < first.bitspersample < 8:
        raise UnreadableImage(f"its numbers have {first.bitspersample} bits; convert it")
    return _raster(chosen)


def open_tiles(file: BinaryIO, frame: int, boxes: Sequence[Box]) -> Raster | None:
    """Opens a page of a TIFF where that saves work beside Pillow, which reads all of it.

    Args:
      file: of an image that Pillow reads, too.
      frame: which page.
      boxes: that are needed.

    Returns:
      None if it has no tiles or strips of which the boxes need half at most, or these are
      compressed with a loss, in a way that tifffile alone does not know, or hold no plain colours.
    """
    import tifffile  # slow to import

    page = tifffile.TiffFile(file, name=_NAME).pages[frame]
    plain = (
        page.photometric in _PLAIN
        and page.compression in _WITHOUT_LOSS
        and page.bitspersample in (8, 16, 32)
        and page.axes in ("YX", "YXS")
        and not page.extrasamples
        and MISSING not in page.tags
    )
    if not plain or len(page.dataoffsets) < 2 * len(chunks_of(page, boxes)):
        return None
    return _raster([page])


def _raster(pages: "list[tifffile.TiffPage]") -> Raster:
    """Returns pages as the channels of an image."""
    first = pages[0]
    orientation = first.tags.get(_ORIENTATION)
    return Raster(
        first.imagelength,
        first.imagewidth,
        len(pages) * first.samplesperpixel,
        first.dtype.name,
        functools.partial(_read, pages),
        orientation=orientation.value if orientation else 1,
    )


def _read(pages: "Sequence[tifffile.TiffPage]", boxes: Sequence[Box]) -> np.ndarray:
    """Returns the numbers of pages as channels, [H, W, C]; see `Raster`."""
    try:
        parts = [_read_page(page, boxes) for page in pages]
    except ValueError as error:
        if "imagecodecs" in str(error):
            name = pages[0].compression.name
            raise UnreadableImage(
                f"its compression {name} needs imagecodecs: pip install 'ibot-jax[tiff]'"
            ) from error
        raise
    values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    if MISSING in pages[0].tags:
        missing = pages[0].nodata
        values[np.isnan(values) if missing != missing else values == missing] = 0
    if pages[0].photometric == _WHITE_IS_ZERO and values.dtype.kind == "u":
        return ~values
    return values


def _read_page(page: "tifffile.TiffPage", boxes: Sequence[Box]) -> np.ndarray:
    """Returns the numbers of a page, [H, W, S]."""
    planar = page.axes == "SYX"
    if page.axes not in ("YX", "YXS", "SYX"):
        raise UnreadableImage(f"its axes {page.axes} are not those of an image")
    if not boxes or len(page.dataoffsets) == 1:
        values = page.asarray(squeeze=False, maxworkers=1)  # [S, 1, H, W, S']
        return np.moveaxis(values[:, 0], 0, -2).reshape(*values.shape[2:4], -1)
    values = np.zeros((page.imagelength, page.imagewidth, page.samplesperpixel), page.dtype)
    file = page.parent.filehandle
    for number in chunks_of(page, boxes):
        file.seek(page.dataoffsets[number])
        data = file.read(page.databytecounts[number])
        chunk, (sample, _, row, column, _), (_, height, width, _) = page.decode(
            data, number, jpegtables=page.jpegtables
        )
        if chunk is not None:  # nothing is written of empty ones
            samples = slice(sample, sample + 1) if planar else slice(None)
            target = values[row : row + height, column : column + width, samples]
            target[:] = chunk[0, : target.shape[0], : target.shape[1]]
    return values


def chunks_of(page: "tifffile.TiffPage", boxes: Sequence[Box]) -> np.ndarray:
    """Returns the numbers of the tiles or strips that boxes touch."""
    high, wide = page.chunks[:2]
    touched = np.zeros(page.chunked, bool)  # by rows and columns, and of planes first by channel
    for box in boxes:
        rows = slice(box.top // high, -(-(box.top + box.height) // high))
        columns = slice(box.left // wide, -(-(box.left + box.width) // wide))
        touched[(slice(None), rows, columns) if page.axes == "SYX" else (rows, columns)] = True
    return np.flatnonzero(touched)
