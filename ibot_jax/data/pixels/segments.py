"""The segments of a JPEG up to its pixels (ITU T.81, B.1.1)."""

import struct
from collections.abc import Iterator

SOI = b"\xff\xd8"
SOS = 0xDA  # second byte of the marker behind which pixels come


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the second bytes of their markers, and where these lie; nothing of other files."""
    place = 2
    while data[:2] == SOI and place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        yield kind, place
        if kind == SOS:
            return
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
