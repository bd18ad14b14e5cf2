"""Rows of a JPEG without the rest of it, where it has restart markers.

At a marker a decoder forgets what was before (ITU T.81, F.1.1.5.1 and E.2.4), so that the rows
between two of them are a JPEG of their own when they get its header.
"""

import itertools
import struct

import numpy as np

from ibot_jax.data.pixels.segments import SOS, segments

_BASELINE, _DRI, _RST = (0xC0, 0xC1), 0xDD, 0xD0  # second bytes of markers
_EOI = b"\xff\xd9"
_BESIDE = 1  # rows of blocks on either side, into which the colours of an edge are smoothed


def rows_of(data: bytes, first: int, last: int) -> tuple[bytes, int] | None:
    """Returns a JPEG of some rows of pixels.

    Args:
      data: a JPEG.
      first: row that is needed.
      last: one behind the last row that is needed.

    Returns:
      The JPEG, and which row of the whole its first one is, a multiple of 8. None where `data` has
      no restart markers at the ends of rows of blocks, is progressive, or is no plain JPEG.
    """
    found = dict(segments(data))
    frame = next((found[kind] for kind in _BASELINE if kind in found), None)
    if frame is None or not {_DRI, SOS} <= found.keys():
        return None
    height, width, parts = struct.unpack_from(">HHB", data, frame + 5)
    sampling = [data[frame + 11 + 3 * part] for part in range(parts)] if parts > 1 else [0x11]
    high, wide = 8 * max(s & 15 for s in sampling), 8 * max(s >> 4 for s in sampling)
    (interval,) = struct.unpack_from(">H", data, found[_DRI] + 4)
    of_row = -(-width // wide)
    if not interval or of_row % interval or data[found[SOS] + 4] != parts or not height:
        return None
    begin = found[SOS] + 2 + struct.unpack_from(">H", data, found[SOS] + 2)[0]
    content = np.frombuffer(data, np.uint8, offset=begin)
    after = np.flatnonzero(content[:-1] == 0xFF) + 1  # by marker, or by 0 in place of one
    ends = begin - 1 + after[(content[after] & 0xF8) == _RST]
    rows, each = -(-height // high), of_row // interval
    end = data.find(_EOI, int(ends[-1]) if len(ends) else begin)
    if len(ends) != rows * each - 1 or end < 0:
        return None
    top, bottom = max(first // high - _BESIDE, 0), min(-(-last // high) + _BESIDE, rows)
    bounds = [begin - 2, *ends.tolist(), end]  # of what lies between markers, two bytes each
    pieces = [
        data[start + 2 : stop]
        for start, stop in itertools.pairwise(bounds[top * each : bottom * each + 1])
    ]
    marked = [piece + bytes((0xFF, _RST + n % 8)) for n, piece in enumerate(pieces[:-1])]
    head = bytearray(data[:begin])
    struct.pack_into(">H", head, frame + 5, min(bottom * high, height) - top * high)
    return b"".join((bytes(head), *marked, pieces[-1], _EOI)), top * high
