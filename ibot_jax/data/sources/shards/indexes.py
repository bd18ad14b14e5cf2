"""Indexes of large files: found once, in parallel, kept under a name that changes with the file."""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import random
import sys
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from ibot_jax.data.sources.names import Names
from ibot_jax.data.sources.ranges import state_of
from ibot_jax.data.sources.shards.source import Index
from ibot_jax.errors import UserError
from ibot_jax.files import remote
from ibot_jax.files.atomic import writing
from ibot_jax.screen.progress import progress

_VERSION = 4  # of what an index holds
_THREADS = 16

_log = logging.getLogger(__name__)


def indexes_of(
    files: Sequence[str], make: Callable[[str], Index], kind: str, folder: str
) -> list[Index]:
    """Returns the index of each file, kept from before where the file is still the same.

    Each call begins elsewhere, so that processes that share the folder find what others have made.

    Args:
      files: paths or URLs.
      make: finds what lies in a file, of any size; raises any exception where it is none.
      kind: of the files, part of the names of what is kept.
      folder: where indexes are kept, local or of a bucket; "" is a folder for caches of this user.

    Raises:
      UserError: if none of the files can be read; of those that cannot, an index tells.
    """
    kept = epath.Path(folder or _cache()) / "indexes"

    def find(file: str) -> Index:
        where = file if remote.is_remote(file) else os.path.abspath(file)
        name = hashlib.sha256(os.fsencode(f"{_VERSION} {kind} {where} {state_of(file)}"))
        path = kept / f"{name.hexdigest()[:32]}.npz"
        if (found := _read(path)) is None:
            found = _made(file, make)
            if not found.remark:
                _write(path, found)
        # There may be millions of names, and few different labels.
        labels = [sys.intern(label) for label in found.labels]
        return dataclasses.replace(found, names=Names(found.names), labels=labels)

    begin = random.randrange(len(files))
    order = [*range(begin, len(files)), *range(begin)]
    _log.info("%s files are looked into", f"{len(files):,}")
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        indexes = pool.map(find, [files[number] for number in order])
        indexes = progress(indexes, len(files), "indexing files")
        found = dict(zip(order, indexes, strict=True))
    indexes = [found[number] for number in range(len(files))]
    bad = [index.remark for index in indexes if index.remark and not index.names]
    if len(bad) == len(files):
        raise UserError(f"{files[0]}: {bad[0]}; none of the {len(files):,} files can be read")
    return indexes


def _made(file: str, make: Callable[[str], Index]) -> Index:
    try:
        return remote.patiently(lambda: make(file)) if remote.is_remote(file) else make(file)
    except UserError:
        raise
    except Exception as error:  # of file systems and of what reads the format
        reason = " ".join(str(error).split()) or type(error).__name__
        return Index(
            (), np.zeros((0, 2), np.int64), (), f"left out, for it cannot be read: {reason}"
        )


def _cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "ibot_jax")


def _read(path: epath.Path) -> Index | None:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            names, labels = json.loads(arrays["texts"].tobytes())
            return Index(names, arrays["places"], labels)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever it is, it can be made anew
        _log.warning("%s cannot be read (%s), and is made anew", path, error)
        return None


def _write(path: epath.Path, index: Index) -> None:
    texts = np.frombuffer(json.dumps([list(index.names), list(index.labels)]).encode(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            np.savez(file, texts=texts, places=index.places)
    except Exception as error:  # of TensorFlow, too: a bucket that takes nothing
        _log.warning("an index is not kept, for %s cannot be written (%s)", path.parent, error)
