"""All processes of a run read the same images, or none begins.

Compared are the names of the images, not what the files hold. An image is read by the process whose
rows it belongs to and by no other: a file that is damaged on one host is a bad image of the run
like any other.
"""

import hashlib
import os
import socket
import weakref
from collections.abc import Iterable, Sequence

import numpy as np

from ibot_jax.data.sources.identity import names_of
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.parallel.agreement import gather
from ibot_jax.parallel.processes import is_alone

_compared: weakref.WeakSet = weakref.WeakSet()  # sources that are the same on all processes


def require_same_images(source: Source | TfdsStream) -> None:
    """Raises a UserError on all processes if one has other images than the first.

    All processes call it alike. The second call for a source costs nothing.

    Args:
      source: of this process.
    """
    if is_alone() or source in _compared:
        return
    if isinstance(source, TfdsStream):
        require_same_names([f"{len(source)} images".encode()], source.name)
    else:
        require_same_names(names_of(source), source.name)
    _compared.add(source)


def require_same_files(files: Sequence, what: str) -> None:
    """Does so for a list of files, or of tuples that begin with one.

    Args:
      files: paths; where their common folder lies on a process is its own affair.
      what: they are, in words.
    """
    if is_alone():
        return
    paths = [str(file[0] if isinstance(file, tuple) else file) for file in files]
    # By characters, for URLs, too; up to the last slash.
    root = os.path.commonprefix(paths).rpartition("/")[0] if paths else ""  # noqa: RUF071
    require_same_names([os.fsencode(path.removeprefix(root)) for path in paths], what)


def require_same_names(names: Iterable[bytes], what: str) -> None:
    """Raises a UserError on all processes if one has other names than the first, or another order.

    What is exchanged is some hundred bytes, a few dozen times where they differ.

    Args:
      names: of this process.
      what: they are names of, in words.
    """
    # Eight bytes for each: so many that two of a million do not meet.
    names = list(names)
    hashes = np.array([hashlib.blake2b(name, digest_size=8).digest() for name in names], "S8")
    counts = [int(count) for count in gather(str(len(names)).encode())]
    other = _first_other(_hash(hashes))
    if other is None:
        return
    same, most = 0, min(counts[0], counts[other])  # so many first ones are the same
    while same < most:
        middle = (same + most + 1) // 2
        told = gather(_hash(hashes[:middle]))
        same, most = (middle, most) if told[0] == told[other] else (same, middle - 1)
    told = gather(names[same] if same < len(names) else b"")
    first, others = told[0], told[other]
    has = gather(bytes([first in names, others in names]))
    hosts = [host.decode() for host in gather(socket.gethostname().encode())]
    if first and not has[other][0]:
        lacks = other, first
    elif others and not has[0][1]:
        lacks = 0, others
    else:
        lacks = None
    counted = " and ".join(
        f"process {process} on {hosts[process]} has {counts[process]:,}" for process in (0, other)
    )
    if lacks:
        process, name = lacks
        where = f"process {process} on {hosts[process]} lacks {_in_words(name)}"
    else:
        where = f"process {other} on {hosts[other]} has {_in_words(others)} elsewhere in the order"
    raise UserError(
        f"{what}: the images of the processes are not the same: {where}; {counted}; give all the "
        "same files"
    )


def _first_other(digest: bytes) -> int | None:
    """Returns the first process with another digest than process 0."""
    told = gather(digest)
    return next((process for process, each in enumerate(told) if each != told[0]), None)


def _hash(hashes: np.ndarray) -> bytes:
    return hashlib.sha256(hashes.tobytes()).digest()


def _in_words(name: bytes) -> str:
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
