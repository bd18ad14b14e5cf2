"""Images inside larger files: where each begins, its length and name.

They have random access, so that their order is a function of seed and epoch as that of files in a
folder, and a resumed run goes on where it stopped.
"""

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ibot_jax.data.sources.labels import folders_as_labels, numbered
from ibot_jax.data.sources.names import Names
from ibot_jax.data.sources.ranges import state_of
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_MAX_NAMED = 20  # files; a store that is down should not fill the log

_log = logging.getLogger(__name__)

Place = tuple[str, int, int]  # file, first byte and length, or what else the format has
Fetch = Callable[[Place], bytes]


@dataclasses.dataclass(frozen=True)
class Index:
    """The images of one file, in an order that does not change.

    Attributes:
      names: of the images, as the file has them.
      places: [N, 2] int64, where each begins and how many bytes it has there.
      labels: of the images, as the file has them, "" where there is none.
      remark: what is wrong with the file, "" if nothing is.
    """

    names: Sequence[str]
    places: np.ndarray
    labels: Sequence[str]
    remark: str = ""


class ShardSource:
    """Images of several files, file by file; see `opening.Source`.

    Attributes:
      files: paths or URLs.
      fetch: reads an image, of file, first byte and length.
    """

    def __init__(
        self,
        spec: str,
        files: Sequence[str],
        indexes: Sequence[Index],
        fetch: Fetch,
    ):
        """Puts the files together.

        Args:
          spec: how the user names the source.
          files: paths or URLs.
          indexes: of each.
          fetch: reads an image, of file, first byte and length.

        Raises:
          UserError: if there is no image.
        """
        self.name, self.fetch, self.files = spec, fetch, files
        odd = [(file, i.remark) for file, i in zip(files, indexes, strict=True) if i.remark]
        for file, remark in odd[:_MAX_NAMED]:
            _log.warning("%s: %s", file, remark)
        if len(odd) > _MAX_NAMED:
            more = f"{len(odd) - _MAX_NAMED:,}"
            _log.warning("%s more of %s files are cut off or left out", more, f"{len(files):,}")
        self._names = Names()
        for index in indexes:
            self._names.extend(index.names)
        self._places = np.concatenate([index.places for index in indexes])
        numbers = np.arange(len(files), dtype=np.int32)
        self._file = np.repeat(numbers, [len(index.names) for index in indexes])
        if not len(self):
            raise UserError(f"data.source={spec!r} holds no images")
        labels = list(itertools.chain.from_iterable(index.labels for index in indexes))
        if not any(labels):
            labels = folders_as_labels(self._names)
        self.labels, self.class_names = numbered(labels, spec)

    @property
    def num_classes(self) -> int | None:
        return self.class_names and len(self.class_names)

    def __len__(self) -> int:
        return len(self._file)

    def locate(self, index: int) -> tuple[Place, int]:
        """Returns file, first byte and length of an image, and its label, -1 without labels."""
        label = -1 if self.labels is None else int(self.labels[index])
        return (self.files[self._file[index]], *self._places[index].tolist()), label

    def describe(self, index: int) -> str:
        """Returns the file and the name of one image in it."""
        return f"{self.files[self._file[index]]}/{self._names[index]}"

    def relative_name(self, index: int) -> str:
        """Returns the names of the file, and of one image in it."""
        return f"{self.files[self._file[index]].rpartition('/')[2]}/{self._names[index]}"

    def stamps(self) -> Iterator[str]:
        """Yields the files, their sizes and times of change, and the names of the images."""
        for file in self.files:
            yield f"{file} {state_of(file)}"
        yield from map(self.relative_name, range(len(self)))


def of_unchanged(fetch: Fetch, files: Sequence[str]) -> Fetch:
    """Returns what reads images as `fetch` does, of formats that do not tell of other images.

    It raises a ValueError where a file on a disk is not what it is now; of URLs it knows nothing.
    """
    states = {file: _state(file) for file in files if not remote.is_remote(file)}
    return functools.partial(_fetch_of_unchanged, fetch=fetch, states=states)


def _fetch_of_unchanged(place: Place, fetch: Fetch, states: Mapping[str, tuple[int, int]]) -> bytes:
    file = place[0]
    if file in states and _state(file) != states[file]:
        raise ValueError(f"{file} has changed since it was opened")
    return fetch(place)


def _state(file: str) -> tuple[int, int]:
    """Returns a file's size, and its time of change in nanoseconds."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns


def ordered(
    names: Sequence[str], places: Sequence[tuple[int, int]], labels: Sequence[str], remark: str
) -> Index:
    """Returns the index of an archive, in the order of a folder: by name, files before folders."""

    def key(place: int):
        *folders, file = names[place].split("/")
        return [*((1, folder) for folder in folders), (0, file)]

    order = sorted(range(len(names)), key=key)
    names, labels = ([texts[place] for place in order] for texts in (names, labels))
    return Index(names, np.array(places, np.int64).reshape(-1, 2)[order], labels, remark)
