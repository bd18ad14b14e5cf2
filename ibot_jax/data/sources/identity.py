"""Which images a source holds, told by names, sizes and times: cheap enough for millions."""

import hashlib
import os
from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.screen.progress import busy


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
    """Yields the names of the images, which are the same wherever the source lies."""
    for index in range(len(source)):
        yield os.fsencode(source.relative_name(index))


def fingerprint(source: Source | TfdsStream) -> str:
    """Returns a hash of which images a source holds, and of their labels.

    Of files, local or in a bucket, it takes sizes and times of change as far as they are told; of
    the rest the name, which tells a TFDS version and split, the number of images, and their place.
    """
    digest = hashlib.sha256()
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels).tobytes())
    with busy("looking at files"):
        for text in source.stamps():
            digest.update(os.fsencode(text) + b"\0")
    return digest.hexdigest()
