"""Files and folders that have their name only when they are whole, on disks and in buckets.

They are written under a temporary name beside it, .NAME.xxxxxxxx, which goes where the writing
fails or a signal ends the program.
"""

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from ibot_jax.files.json_files import as_json
from ibot_jax.files.remote import is_remote
from ibot_jax.parallel import signals


@contextlib.contextmanager
def renamed(target: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path, which takes the place of `target` if the block ends well.

    A bucket renames a folder file by file: what shows that it is whole is written after it.
    """
    with temporary(target) as path:
        yield path
        if target.is_dir():
            target.rmtree()
        path.replace(target)


@contextlib.contextmanager
def temporary(target: epath.Path) -> Iterator[epath.Path]:
    """Yields a path beside `target`, of the same suffix; what fails leaves nothing there."""
    path = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        with signals.before_end(lambda: remove(path)):
            yield path
    except BaseException:
        remove(path)
        raise


@contextlib.contextmanager
def writing(target: epath.Path) -> Iterator[BinaryIO]:
    """Yields a file to write to and seek in, which becomes `target` if the block ends well.

    What goes into a bucket waits on the disk until it is whole.
    """
    if is_remote(str(target)):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with target.open("wb") as there:
                shutil.copyfileobj(file, there, 2**24)
        return
    with renamed(target) as path, path.open("wb") as file:
        yield file


def write_bytes(target: epath.Path, content: bytes) -> None:
    """Writes a file at once or not at all: other processes may be reading it."""
    if is_remote(str(target)):  # a bucket has an object only when all of it has arrived
        target.write_bytes(content)
        return
    with renamed(target) as path:
        path.write_bytes(content)


def write_json(target: epath.Path, value: Any) -> None:
    """Writes a value as indented JSON, at once or not at all."""
    write_bytes(target, as_json(value).encode())


def remove(path: epath.Path, *, quiet_s: float = 1.0, limit_s: float = 10.0) -> None:
    """Removes a file or folder, if it is there, and raises nothing.

    A folder has to stay away for a moment: after a failure Orbax's other threads still write, and
    make their folders anew.
    """
    if path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    start = gone_since = time.monotonic()
    while True:
        if path.exists():
            with contextlib.suppress(OSError):
                path.rmtree()
            gone_since = time.monotonic()
        now = time.monotonic()
        if now - gone_since >= quiet_s or now - start >= limit_s:
            return
        time.sleep(0.05)
