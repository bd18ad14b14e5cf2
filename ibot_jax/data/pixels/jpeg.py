"""JPEGs by libjpeg-turbo, straight into an array."""

import struct
from collections.abc import Sequence

import numpy as np
import simplejpeg

from ibot_jax.data.pixels import restarts
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.segments import SOS, segments

_FRAMES = 0xC0, 0xC1, 0xC2  # baseline, extended, progressive
# What else a plain one has: tables, restarts, a comment, JFIF's header and colour profiles. Adobe's
# segment would say which colours it has.
_PLAIN = {*_FRAMES, 0xC4, 0xDB, 0xDD, 0xFE, 0xE0, 0xE2, SOS}
_EXIF, _PROFILES, _PROFILE = 0xE1, 0xE2, b"ICC_PROFILE\0"


def plain_size(data: bytes, exif: bool) -> tuple[int, int] | None:
    """Returns height and width of a JPEG of three colours of which there is no more to know.

    Args:
      data: any file; None of what is no JPEG, or in which anything is unusual.
      exif: whether what stands there is to be read.
    """
    size, plain = None, _PLAIN if exif else _PLAIN | {_EXIF}
    for kind, place in segments(data):
        of_profile = kind != _PROFILES or data.startswith(_PROFILE, place + 4)
        if kind not in plain or not of_profile:
            return None
        if kind in _FRAMES and place + 10 <= len(data):
            bits, *size, colors = struct.unpack_from(">BHHB", data, place + 4)
            if (bits, colors) != (8, 3) or not all(size):
                return None
        if kind == SOS:
            return size and tuple(size)
    return None


def decode_rows(
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
