"""Which images two sources have in common, by what they hold; cheap where few or none are.

Of files only those of equal size are looked at: their ends first, and all of them where the ends
agree.
"""

import collections
import hashlib
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ibot_jax.data.sources.folders import FolderSource
from ibot_jax.data.sources.lists import ListSource
from ibot_jax.data.sources.opening import DigitsSource, Source, Subset
from ibot_jax.data.sources.shards.source import ShardSource
from ibot_jax.data.sources.tfds import TfdsSource, TfdsStream
from ibot_jax.files import remote
from ibot_jax.screen.progress import progress

_OF_PLACES = (ShardSource, ListSource, Subset)  # whose images are told apart by where they lie
_END = 4096  # bytes at the beginning and at the end of a file that are compared first
_THREADS = 16  # a network's disk answers many questions at a time
_MOST = 100_000  # files of which all are compared with all
_BATCH = 256  # paths that a thread takes together


class Shared(NamedTuple):
    """The images that two sources have in common.

    Attributes:
      first: [M] int32, the number of each image of the first source that the second one has, too,
        and -1 for all others.
      second: [Q] int32, likewise; the same image has the same number.
    """

    first: np.ndarray
    second: np.ndarray

    @property
    def count(self) -> int:
        """Returns how many images of the second source are in the first."""
        return int(np.count_nonzero(self.second >= 0))

    @property
    def copies(self) -> int:
        """Returns how often, at most, the first source has one of these images."""
        return int(np.bincount(self.first[self.first >= 0]).max(initial=0))


def find_shared(first: Source | TfdsStream, second: Source | TfdsStream) -> Shared:
    """Finds the images that two sources have in common.

    Local files are the same if they hold the same bytes, whatever their names; of sources that have
    together more than 100,000 files, only those of the same name are looked at. In buckets,
    archives and TFDS it is the place that counts: URLs, places in a file, examples of a shard.
    """
    if isinstance(first, FolderSource) and isinstance(second, FolderSource):
        paths = [_Paths(source) for source in (first, second)]
        return find_shared_files(*paths)
    if isinstance(first, TfdsSource | TfdsStream) and type(first) is type(second):
        return _number(_places(first), _places(second))
    if isinstance(first, _OF_PLACES) and isinstance(second, _OF_PLACES):
        return _number(*([s.locate(i)[0] for i in range(len(s))] for s in (first, second)))
    if isinstance(first, DigitsSource) and isinstance(second, DigitsSource):
        return _number(
            *([s.locate(i)[0].tobytes() for i in range(len(s))] for s in (first, second))
        )
    return _number([None] * len(first), [None] * len(second))


def find_shared_files(first: Sequence[str], second: Sequence[str]) -> Shared:
    """Finds the images that two lists of files have in common; see `find_shared`."""
    if any(remote.is_remote(paths[0]) for paths in (first, second)):
        return _number(first, second)
    sides = [range(len(first)), range(len(second))]
    large = len(first) + len(second) > _MOST
    if large:
        names = [{_name(path) for path in paths} for paths in (first, second)]
        common = names[0] & names[1]
        sides = [
            [index for index, path in enumerate(paths) if _name(path) in common]
            for paths in (first, second)
        ]
    looked_at = [[paths[i] for i in ids] for paths, ids in zip((first, second), sides, strict=True)]
    found = _number(*_keys_of_files(*looked_at, large=large))
    numbers = Shared(np.full(len(first), -1, np.int32), np.full(len(second), -1, np.int32))
    for whole, part, ids in zip(numbers, found, sides, strict=True):
        whole[np.asarray(ids, np.int64)] = part
    return numbers


class _Paths(Sequence):
    """The paths of a folder's images, made when they are asked for: there may be millions."""

    def __init__(self, source: FolderSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> str:
        if index >= len(self):
            raise IndexError(index)
        return self._source.describe(index)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _places(source: TfdsSource | TfdsStream) -> list[int]:
    """Returns a number for every example of a split, by file and place in it."""
    return [
        (zlib.crc32(name.encode()) << 32) + place
        for name, start, stop in source.parts()
        for place in range(start, stop)
    ]


def _number(first: Sequence[Hashable | None], second: Sequence[Hashable | None]) -> Shared:
    """Numbers the keys that both sides have; None is nobody's."""
    common = sorted(set(first) & set(second) - {None})  # one order on all processes
    numbers = {key: number for number, key in enumerate(common)}
    return Shared(
        *(np.array([numbers.get(key, -1) for key in keys], np.int32) for keys in (first, second))
    )


class _File(NamedTuple):
    """A file, however it is called: its size and where it lies on which disk."""

    size: int
    device: int
    inode: int


def _keys_of_files(
    first: Sequence[str], second: Sequence[str], *, large: bool
) -> tuple[list[bytes | None], list[bytes | None]]:
    """Returns for each path what is equal for files that hold the same, None if none does.

    Of large sets a file that is on both sides itself is not read.
    """
    files = [_in_threads(_state, paths) for paths in (first, second)]
    sizes = set.intersection(*({file.size for file in side if file} for side in files))
    path_of = {}
    for side, paths in zip(files, (first, second), strict=True):
        path_of |= {f: path for f, path in zip(side, paths, strict=True) if f and f.size in sizes}
    keys = {}
    if large:
        for file in set(files[0]).intersection(files[1]) & path_of.keys():
            keys[file] = repr(file).encode()
            del path_of[file]
    ends = dict(zip(path_of, _in_threads(_ends, path_of.values()), strict=True))
    alike = [{ends[file] for file in side if file in ends} for side in files]
    groups = collections.defaultdict(list)
    for file, end in ends.items():
        if end is not None and end in alike[0] & alike[1]:
            groups[end].append(file)
    keys |= {group[0]: end for end, group in groups.items() if len(group) == 1}
    doubtful = [file for group in groups.values() if len(group) > 1 for file in group]
    contents = _in_threads(_content, (path_of[file] for file in doubtful))
    keys |= dict(zip(doubtful, contents, strict=True))
    return [keys.get(file) for file in files[0]], [keys.get(file) for file in files[1]]


def _in_threads(function: Callable[[str], Any], paths: Iterable[str]) -> list[Any]:
    """Returns function(path) for each path, None where it cannot be read: reading will tell."""

    def of_some(some):
        found = []
        for path in some:
            try:
                found.append(function(path))
            except OSError:
                found.append(None)
        return found

    paths = list(paths)
    some = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(progress(pool.map(of_some, some), len(some), "comparing files"))
    return list(itertools.chain.from_iterable(parts))


def _state(path: str) -> _File | None:
    state = os.stat(path)
    # An empty file is no image, and a pipe would never end.
    whole = stat.S_ISREG(state.st_mode) and state.st_size
    return _File(state.st_size, state.st_dev, state.st_ino) if whole else None


def _ends(path: str) -> bytes:
    with open(path, "rb") as file:
        begin = file.read(_END)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END, 0))
        return hashlib.sha256(b"%d " % size + begin + file.read(_END)).digest()


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
