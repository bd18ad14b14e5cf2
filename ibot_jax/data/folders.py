"""Images in folders, on a local disk or wherever fsspec reads (such as gs://)."""

import itertools
import os
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from ibot_jax.data import remote
from ibot_jax.errors import UserError

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")


class FolderSource:
    """Images under a folder, with random access.

    Where all images lie in subfolders, the first level names their classes, however deep they lie
    below it; images right in the folder make it unlabelled. Hidden files, and those whose extension
    is not in `EXTENSIONS`, are ignored. The order is by name, folder by folder.

    Attributes:
      name: for people, "folder:PATH".
      fetch: reads the file that a path names.
      labels: [len] int32, or None where there are no classes.
      class_names: by label, or None.
    """

    def __init__(self, path: str, split: str, *, max_per_class: int = 0):
        """Lists the folder `path`, or its subfolder `split` if there is one.

        Raises:
          UserError: if folder or split is missing, holds no images, or `max_per_class` is asked of
            a folder without classes.
        """
        self._root = _resolve_split(path, split)
        self.fetch = read_file
        self.name = f"folder:{self._root}"
        files, folders = _list_folder(self._root)
        if files and max_per_class:
            raise UserError(
                f"max_per_class={max_per_class} needs class folders, but {self.name} holds images "
                "without one; set it to 0, or move the images into a folder for each class"
            )
        self._paths = _Paths(files)
        counts = {}
        for folder in folders:
            images = _walk(self._root, folder)
            counts[folder] = self._paths.extend(itertools.islice(images, max_per_class or None))
        if not len(self._paths):
            raise UserError(
                f"data.source='{self.name}' holds no images; it needs files that end in "
                f"{', '.join(EXTENSIONS)}, in class folders or not"
            )
        self.labels = self.class_names = None
        if not files:
            counts = {folder: count for folder, count in counts.items() if count}
            self.class_names = list(counts)
            self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))

    @property
    def num_classes(self) -> int | None:
        return self.class_names and len(self.class_names)

    def __len__(self) -> int:
        return len(self._paths)

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the path of an image and its label, -1 where there are none."""
        return self.describe(index), -1 if self.labels is None else int(self.labels[index])

    def describe(self, index: int) -> str:
        """Returns the path of one image."""
        return _join(self._root, self._paths[index])


def read_file(path: str) -> bytes:
    """Returns what a file holds; raises any exception where it is gone."""
    if remote.is_remote(path):
        return remote.read(path)
    with open(path, "rb") as file:
        return file.read()


class _Paths:
    """A list of relative paths in one block of bytes: millions of them fit in little memory."""

    def __init__(self, paths: Iterable[str]):
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self.extend(paths)

    def extend(self, paths: Iterable[str]) -> int:
        """Appends the paths; returns how many they were."""
        before = len(self)
        for path in paths:
            self._bytes += os.fsencode(path)
            self._ends.append(len(self._bytes))
        return len(self) - before

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(bytes(self._bytes[self._ends[index] : self._ends[index + 1]]))


def _resolve_split(path: str, split: str) -> str:
    """Returns the folder that holds the split: PATH/SPLIT, or PATH itself for "" and "train"."""
    path = path if remote.is_remote(path) else os.path.expanduser(path)
    if not _is_folder(path):
        raise UserError(f"data.source='folder:{path}' is no folder; give the path of one")
    if split and _is_folder(_join(path, split)):
        return _join(path, split)
    if split in ("", "train"):
        return path
    folders = _list_folder(path)[1]
    found = ", ".join(folders[:10]) + (", ..." if len(folders) > 10 else "")
    raise UserError(
        f"split={split!r} is no subfolder of data.source='folder:{path}'; "
        + (f"there are: {found}" if found else 'it has none, so only split="train" will do')
    )


def _walk(root: str, folder: str) -> Iterator[str]:
    """Yields the images below ROOT/FOLDER by name, relative to `root`."""
    files, folders = _list_folder(_join(root, folder))
    for file in files:
        yield _join(folder, file)
    for subfolder in folders:
        yield from _walk(root, _join(folder, subfolder))


def _list_folder(path: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the images and of the folders right in `path`."""
    try:
        entries = remote.entries(path) if remote.is_remote(path) else _local_entries(path)
        found = [(name, folder) for name, folder in entries if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{path} cannot be listed: {error}; check its permissions") from error
    files = sorted(name for name, folder in found if not folder and _is_image(name))
    return files, sorted(name for name, folder in found if folder)


def _local_entries(path: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir()


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS


def _is_folder(path: str) -> bool:
    return remote.is_folder(path) if remote.is_remote(path) else os.path.isdir(path)


def _join(*parts: str) -> str:
    return "/".join((parts[0].rstrip("/"), *parts[1:]))
