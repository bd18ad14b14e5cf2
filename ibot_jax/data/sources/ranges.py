"""Files on a disk or behind a URL, of which a range of bytes is read."""

import os
from typing import BinaryIO

from ibot_jax.errors import UserError
from ibot_jax.files import remote


def read_range(place: tuple[str, int, int]) -> bytes:
    """Returns the bytes of an image that lies in a file as it is.

    Raises:
      Exception: of any kind where the file is gone, or shorter than it was, or its server sends no
        parts of files.
    """
    path, start, size = place
    if remote.is_remote(path):
        found = remote.read(path, start, start + size)
    else:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)
    if len(found) < size:
        raise EOFError(f"{path} ends {size - len(found)} bytes too early; was it replaced?")
    if len(found) > size:
        raise ValueError(f"{path} is sent as a whole where a part is asked for; copy the file")
    return found


def open_file(path: str) -> BinaryIO:
    """Opens a file on a disk or behind a URL."""
    return remote.opened(path) if remote.is_remote(path) else open(path, "rb")


def state_of(path: str) -> str:
    """Returns what changes when a file does.

    Raises:
      UserError: if it is not there.
    """
    if remote.is_remote(path):
        return remote.state(path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); look at the path") from error
    return f"{found.st_size} {found.st_mtime_ns}"
