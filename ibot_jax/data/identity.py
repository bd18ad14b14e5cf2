"""Which images a source holds, told by their names: cheap enough for millions."""

import hashlib
import os
from typing import TypedDict

from ibot_jax.data.sources import Source
from ibot_jax.data.tfds import TfdsStream


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
        root = source.name.removeprefix("folder:").rstrip("/") + "/"
        for index in range(len(source)):
            digest.update(os.fsencode(source.describe(index).removeprefix(root)) + b"\0")
    return Identity(images=len(source), names=digest.hexdigest())
