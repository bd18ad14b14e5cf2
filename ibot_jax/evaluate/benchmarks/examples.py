"""Images of a benchmark and what they show, as a source of images."""

import collections
import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.shared_images import find_shared_files
from ibot_jax.files import remote


class Examples:
    """Images of a split; see `data.sources.opening.Source`.

    They have no labels as a source: an image may show several classes.

    Args:
      name: for people.
      root: of the set; names are relative to it.
      images: paths, or pixels [M, H, W, C] uint8.
      targets: [M] int32, the class of each image; or [M, C] int8, 1 for classes that it shows, 0
        for others and -1 for those that do not count.
      class_names: C of them.
    """

    labels = num_classes = None

    def __init__(
        self,
        name: str,
        root: epath.Path,
        images: Sequence[epath.Path] | np.ndarray,
        targets: np.ndarray,
        class_names: Sequence[str],
    ):
        self.name = name
        self.targets = targets
        self.class_names = list(class_names)
        self._root = root
        self._arrays = isinstance(images, np.ndarray)
        self.images = images if self._arrays else [os.fspath(path) for path in images]
        self.fetch = np.asarray if self._arrays else read_file

    def __len__(self) -> int:
        return len(self.images)

    def shown(self) -> np.ndarray:
        """Returns which classes each image shows, [M, C] bool."""
        if self.targets.ndim == 1:
            return self.targets[:, None] == np.arange(len(self.class_names))
        return self.targets == 1

    def first_of_each(self, number: int) -> "Examples":
        """Returns the first so many images of each class, in their order."""
        shown = self.shown()
        kept = np.flatnonzero((shown & (shown.cumsum(axis=0) <= number)).any(axis=1))
        images = self.images[kept] if self._arrays else [self.images[place] for place in kept]
        return Examples(self.name, self._root, images, self.targets[kept], self.class_names)

    def locate(self, index: int) -> tuple[str | np.ndarray, int]:
        return self.images[index], -1

    def describe(self, index: int) -> str:
        return f"{self.name}, image {index}" if self._arrays else self.images[index]

    def relative_name(self, index: int) -> str:
        return self.describe(index).removeprefix(os.fspath(self._root))

    def stamps(self) -> Iterator[str]:
        if self._arrays:
            yield hashlib.sha256(np.ascontiguousarray(self.images)).hexdigest()
            return
        for path in self.images:
            yield path
            if not remote.is_remote(path):
                with contextlib.suppress(OSError):  # that it cannot be read is told in reading
                    state = os.stat(path)
                    yield f"{state.st_size} {state.st_mtime_ns}"


def require_files(paths: Sequence[epath.Path]) -> None:
    """Raises a FileNotFoundError if a file is absent; lists each folder once."""
    by_folder = collections.defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    for folder, wanted in by_folder.items():
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else ()
        absent = [path for path in wanted if path.name not in there]
        if absent:
            raise FileNotFoundError(errno.ENOENT, "is absent", os.fspath(absent[0]))


def count_shared(train: Examples, test: Examples) -> int:
    """Returns how many test images are training images, too, by what they hold."""
    if isinstance(train.images, np.ndarray):
        known = {pixels.tobytes() for pixels in train.images}
        return sum(pixels.tobytes() in known for pixels in test.images)
    return find_shared_files(train.images, test.images).count
