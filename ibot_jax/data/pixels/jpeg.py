"""Plain JPEGs by libjpeg-turbo, straight into an array."""

from collections.abc import Sequence

import numpy as np
import simplejpeg

from ibot_jax.data.pixels import restarts
from ibot_jax.data.pixels.resize import Box


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
