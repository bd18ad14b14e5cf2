"""Tar files of images, such as WebDataset's shards: `tar:PATTERN`.

Files in a tar that have a path in common up to the first dot of the name are one example:

    000017.jpg    the image
    000017.cls    its label, a number or a name; or
    000017.json   {"label": ...}, or "cls", or "class"

Without such labels the first folder that not all images share is the class. Images of a tar are
ordered by name, as those of a folder are.
"""

import json
import posixpath
import re
import tarfile
from typing import Any

from ibot_jax.data.sources.listing import (
    ARRAYS,
    EXTENSIONS,
    endings_among,
    is_counted,
    is_image,
)
from ibot_jax.data.sources.ranges import open_file, read_range
from ibot_jax.data.sources.shards.source import Index, ordered
from ibot_jax.errors import UserError

_KEYS = ("label", "cls", "class")  # of JSON
# What gzip, bzip2, xz and Zstandard begin with; a tar begins with the name of its first file.
_COMPRESSED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd", re.DOTALL)


def index_tar(path: str) -> Index:
    """Finds the images in a tar.

    Raises:
      UserError: if it is compressed: nothing in it could be read without all before it.
      Exception: of any kind where it is no tar.
    """
    names, places, labels = [], [], {}
    remark = ""
    with open_file(path) as file:
        if _COMPRESSED.match(file.read(10)):
            raise UserError(f"{path} is compressed, and has no random access; unpack it (gunzip)")
        end = file.seek(0, 2)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # which it would keep, all of them
                    name = posixpath.normpath(member.name)
                    if not member.isreg() or not is_counted(name):
                        continue
                    if member.offset_data + member.size > end:
                        raise EOFError
                    if is_image(name, (*EXTENSIONS, *ARRAYS)):
                        names.append(name)
                        places.append((member.offset_data, member.size))
                    elif (label := _label(tar, member)) is not None:
                        labels[_key(name)] = label
        except (tarfile.ReadError, EOFError) as error:
            if not names:
                raise tarfile.ReadError(str(error) or "it ends within its first file") from error
            remark = f"it is cut off; the {len(names):,} images before are taken"
    endings = endings_among(names)
    kept = [number for number, name in enumerate(names) if is_image(name, endings)]
    names, places = ([some[number] for number in kept] for some in (names, places))
    return ordered(names, places, [labels.get(_key(name), "") for name in names], remark)


def read_member(place: tuple[str, int, int]) -> bytes:
    """Returns the bytes of an image in a tar.

    Raises:
      Exception: of any kind where the file is gone, or no file of that size begins there: it was
        replaced since it was looked into.
    """
    path, start, size = place
    found = read_range((path, start - tarfile.BLOCKSIZE, size + tarfile.BLOCKSIZE))
    header, content = found[: tarfile.BLOCKSIZE], found[tarfile.BLOCKSIZE :]
    try:
        known = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape").size
    except tarfile.HeaderError:
        known = None
    if known != size:
        raise ValueError(f"{path} has changed: no file of {size} bytes begins at byte {start}")
    return content


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    """Returns the label that a file beside an image holds, None if it holds none."""
    kind = member.name.rpartition(".")[2]
    if kind not in ("cls", "json"):
        return None
    text = tar.extractfile(member).read().decode("utf-8", "replace").strip()
    return text if kind == "cls" else _of_json(text)


def _of_json(text: str) -> str | None:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    values = (found[key] for key in _KEYS if isinstance(found.get(key), int | str))
    return next((str(value) for value in values), None)
