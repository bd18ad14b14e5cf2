"""Fixtures of the tests of pixels."""

import struct
import zlib

import pytest


@pytest.fixture
def png():
    """A function that writes PNGs."""

    def png(width, height, depth, colour, rows):
        """Returns a PNG of any depth, which Pillow cannot write."""

        def chunk(kind, data):
            checked = kind + data
            return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

        header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
        pack = zlib.compressobj(9)
        data = b"".join(pack.compress(b"\0" + row) for row in rows) + pack.flush()
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts

    return png
