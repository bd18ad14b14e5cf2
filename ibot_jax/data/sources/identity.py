"""Which images a source holds, told by names, sizes and times: cheap enough for millions."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from ibot_jax.data.sources.folders import FolderSource
from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsSource, TfdsStream


class Identity(TypedDict):
    """What tells a set of images from another.

    Attributes:
      images: how many there are.
      names: SHA-256 of their names in order, as 64 hexadecimal digits.
    """

    images: int
    names: str


def identify(source: Source | TfdsStream) -> Identity:
    """Returns how many images a source has, and a hash of their names.

    Names are relative to the folder of the source, so that a copy of it elsewhere is the same set.
    Sequential TFDS data has no names: dataset, version, split and number stand for them. No image
    is opened.
    """
    digest = hashlib.sha256()
    if isinstance(source, TfdsStream):
        digest.update(f"{source.name} {len(source)}".encode())
    else:
        for name in names_of(source):
            digest.update(name + b"\0")
    return Identity(images=len(source), names=digest.hexdigest())


def names_of(source: Source) -> Iterator[bytes]:
    """Yields the names of the images, relative to the folder of the source."""
    root = source.name.removeprefix("folder:").rstrip("/") + "/"
    for index in range(len(source)):
        yield os.fsencode(source.describe(index).removeprefix(root))


def fingerprint(source: Source | TfdsStream) -> str:
    """Returns a hash of which images a source holds, and of their labels.

    Of local files it takes paths, sizes and times of change; in buckets the paths; for the rest
    the name, which tells a TFDS version and split, the number of images, and where TFDS has them.
    """
    digest = hashlib.sha256()
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels).tobytes())
    if not isinstance(source, FolderSource):
        digest.update(f"{source.name} {len(source)}".encode())
        if isinstance(source, TfdsSource | TfdsStream):
            digest.update(source.data_dir.encode())
        return digest.hexdigest()
    root = source.name.removeprefix("folder:")
    local = "://" not in root
    digest.update(os.fsencode(os.path.realpath(root) if local else root))
    for index in range(len(source)):
        path = source.describe(index)
        digest.update(b"\0" + os.fsencode(path.removeprefix(root)))
        if local:
            with contextlib.suppress(OSError):  # that it cannot be read is told in reading
                state = os.stat(path)
                digest.update(f" {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()
