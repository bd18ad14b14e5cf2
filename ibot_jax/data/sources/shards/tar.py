"""Tar files of images, such as WebDataset's shards: `tar:PATTERN`.

Files in a tar that have a path in common up to the first dot of the name are one example:

    000017.jpg    the image
    000017.cls    its label, a number or a name; or
    000017.json   {"label": ...}, or "cls", or "class"

Without such labels the first folder that not all images share is the class. Images of a tar are
ordered by name, as those of a folder are.
"""

import dataclasses
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
_BEHIND = 2**20  # bytes after the end of a tar: programs fill it up with zeros


@dataclasses.dataclass
class _Contents:
    """What lies in a tar.

    Attributes:
      files: first byte and length, by name.
      links: what they lead to, by name.
      labels: that are written beside images, by what their names have in common.
      sparse: how many images are stored without their zeros.
      twice: how many images have the name of a later one.
      remark: what is wrong with its end.
    """

    files: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    sparse: int = 0
    twice: int = 0
    remark: str = ""

    def place(self, name: str) -> tuple[int, int] | None:
        """Returns where a file lies, or the one to which a link leads; None if there is none."""
        seen = set()
        while name not in self.files and name in self.links and name not in seen:
            seen.add(name)
            name = self.links[name]
        return self.files.get(name)


def index_tar(path: str) -> Index:
    """Finds the images in a tar, also those that are links to others of its files.

    Of several files of one name the last counts, as it does where a tar is unpacked.

    Raises:
      UserError: if it is compressed: nothing in it could be read without all before it.
      Exception: of any kind where it is no tar.
    """
    found = _contents(path)
    names = [name for name in found.files | found.links if _is_image(name)]
    endings = endings_among(names)
    names = [name for name in names if is_image(name, endings)]
    whole = [name for name in names if found.place(name)]
    remarks = [found.remark] if found.remark else []
    for number, reason in (
        (found.sparse, "images are left out, stored without their zeros (tar --sparse)"),
        (found.twice, "images are left out, for later ones have their names"),
        (len(names) - len(whole), "images are left out, links to what is not in it"),
    ):
        remarks += [f"{number:,} {reason}"] if number else []
    labels = [found.labels.get(_key(name), "") for name in whole]
    return ordered(whole, [found.place(name) for name in whole], labels, "; ".join(remarks))


def _contents(path: str) -> _Contents:
    found = _Contents()
    with open_file(path) as file:
        if _COMPRESSED.match(file.read(10)):
            raise UserError(f"{path} is compressed, and has no random access; unpack it (gunzip)")
        end = file.seek(0, 2)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # which it would keep, all of them
                    _note(found, tar, member, end)
                file.seek(tar.offset)
                if file.read(_BEHIND).strip(b"\0"):
                    found.remark = "what lies behind its end, such as a second tar, is left out"
        except (tarfile.ReadError, EOFError) as error:
            number = sum(map(_is_image, found.files))
            if not number:
                raise tarfile.ReadError(str(error) or "it ends within its first file") from error
            found.remark = f"it is cut off; the {number:,} images before are taken"
    return found


def _note(found: _Contents, tar: tarfile.TarFile, member: tarfile.TarInfo, end: int) -> None:
    """Notes a member; raises an EOFError if the tar ends within it."""
    name = posixpath.normpath(member.name)
    if member.issym():  # from its own folder
        found.links[name] = posixpath.normpath(
            posixpath.join(posixpath.dirname(name), member.linkname)
        )
    elif member.islnk():
        found.links[name] = posixpath.normpath(member.linkname)
    elif member.issparse():
        found.sparse += _is_image(name)
    elif member.isreg():
        if member.offset_data + member.size > end:
            raise EOFError
        found.twice += name in found.files and _is_image(name)
        found.files[name] = (member.offset_data, member.size)
        if is_counted(name) and (label := _label(tar, member)) is not None:
            found.labels[_key(name)] = label


def _is_image(name: str) -> bool:
    return is_counted(name) and is_image(name, (*EXTENSIONS, *ARRAYS))


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
