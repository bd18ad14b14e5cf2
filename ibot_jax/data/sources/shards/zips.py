"""Zip files of images: `zip:PATTERN`; the class is the folder, as in `tar`."""

import posixpath
import struct
import zipfile
import zlib

from ibot_jax.data.sources.listing import endings_among, is_counted, is_image
from ibot_jax.data.sources.ranges import open_file, read_range
from ibot_jax.data.sources.shards.source import Index, ordered

# The header before a file: compression, CRC-32, both sizes, lengths of name and extra field.
_HEADER = struct.Struct("<4s4xH4xIIIHH")
_WINDOWS = 0  # of what made a zip; MS-DOS, by its specification
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def index_zip(path: str) -> Index:
    """Finds the images in a zip. A place is that of an image's header, with what follows it.

    Raises:
      Exception: of any kind where it is no zip.
    """
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        files = [
            member
            for member in archive.infolist()
            if not member.is_dir() and is_counted(_name(member))
        ]
        endings = endings_among(member.filename for member in files)
        members = [member for member in files if is_image(member.filename, endings)]
        sound = [
            member
            for member in members
            if member.compress_type in _COMPRESSIONS and not member.flag_bits & 1
        ]
    odd = len(members) - len(sound)
    remark = f"{odd:,} images are left out, encrypted or of another compression" if odd else ""
    names = [posixpath.normpath(_name(member)) for member in sound]
    places = [(member.header_offset, member.compress_size) for member in sound]
    return ordered(names, places, [""] * len(names), remark)


def _name(member: zipfile.ZipInfo) -> str:
    """Returns the name of a file, which some programs on Windows write with backslashes."""
    name = member.filename
    return name if member.create_system != _WINDOWS else name.replace("\\", "/")


def read_zipped(place: tuple[str, int, int]) -> bytes:
    """Returns the bytes of an image in a zip.

    Raises:
      Exception: of any kind where the file is gone, or has changed.
    """
    path, start, size = place
    header = read_range((path, start, _HEADER.size))
    magic, compression, crc, *_, name, extra = _HEADER.unpack(header)
    if magic != b"PK\x03\x04":
        raise ValueError(f"{path} has changed: no file begins at byte {start}")
    found = read_range((path, start + _HEADER.size + name + extra, size))
    if compression == zipfile.ZIP_DEFLATED:
        found = zlib.decompress(found, -zlib.MAX_WBITS)
    if crc and zlib.crc32(found) != crc:
        raise ValueError("its checksum is another one: the zip is damaged")
    return found
