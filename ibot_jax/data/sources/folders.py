"""Images in folders, on a local disk or wherever fsspec reads (such as gs://)."""

import concurrent.futures
import contextlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from ibot_jax.data.pixels.unreadable import UnreadableImage
from ibot_jax.data.sources import splits
from ibot_jax.data.sources.listing import ARRAYS, EXTENSIONS, Folder, LeftOut, is_folder, join
from ibot_jax.data.sources.names import Names
from ibot_jax.errors import UserError
from ibot_jax.files import remote
from ibot_jax.screen.progress import busy, progress

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}

_THREADS = 16  # a network's disk, or a store, answers many questions at a time

_log = logging.getLogger(__name__)


class FolderSource:
    """Images under a folder, with random access.

    The subfolders are splits where all of them are called so (`data.splits`). Those of a split, or
    of a folder without splits, are classes: the first level names them, however deep images lie
    below it. Images right beside class folders are left out, and so are folders without images;
    but where there are as many as an average class has, all images are taken, without labels, as
    they are where there are no subfolders. What is left out is told by a warning. Hidden files, and
    those whose extension is not in `EXTENSIONS`, are ignored, or, where there is none of these, not
    in `ARRAYS`. The order is by name, folder by folder.

    Attributes:
      root: the folder, without a "/" at its end.
      name: for people, "folder:ROOT".
      fetch: reads the file that a path names.
      labels: [len] int32, or None where there are no classes.
      class_names: by label, or None.
    """

    def __init__(
        self,
        path: str,
        split: str,
        *,
        max_per_class: int = 0,
        labelled: bool = True,
        key: str = "split",
    ):
        """Lists a folder.

        Args:
          path: of the folder.
          split: "train", the training part, which is the whole folder where it has no splits; the
            name of a subfolder, whose case does not matter where it is a split; "" is the folder
            with all below it.
          max_per_class: keeps the first so many images of each class, by name; 0 keeps all.
          labelled: False takes every image, and no labels.
          key: what `split` is called in errors.

        Raises:
          UserError: if folder or split is missing, holds no images, or `max_per_class` is asked of
            a folder without classes.
        """
        for top in _tops(path):
            left_out = LeftOut(top.path)
            with busy("listing"):
                folder, images, folders = _open(top, split, key, left_out)
            self._paths, counts = Names(), {}
            listed = _listed(folder, folders, top.path, max_per_class)
            for name, paths, left_out_below in progress(listed, len(folders), "listing folders"):
                counts[name] = self._paths.extend(paths)
                left_out.update(left_out_below)
            if images or len(self._paths):
                break
        self.root = folder.path.rstrip("/")
        self.fetch = read_file
        self.name = f"folder:{self.root}"
        classes = {name: count for name, count in counts.items() if count}
        strays_are_few = max_per_class or len(images) * len(classes) < len(self._paths)
        mixed = labelled and bool(images) and not strays_are_few
        labelled = labelled and bool(classes) and not mixed
        if max_per_class and not labelled:
            raise UserError(
                f"max_per_class={max_per_class} needs class folders, but {self.name} holds images "
                "without one; set it to 0, or move the images into a folder for each class"
            )
        if labelled:
            for image in images:
                left_out.add(join(self.root, image), "beside the class folders")
            for name in sorted(counts.keys() - classes.keys()):
                left_out.add(join(self.root, name), "no images in it")
        elif images:
            below, self._paths = self._paths, Names()
            self._paths.extend(images)
            self._paths.extend(below)
        if not len(self._paths):
            raise UserError(
                f"data.source='{self.name}' holds no images; it needs files that end in "
                f"{', '.join((*EXTENSIONS, *ARRAYS))}, in class folders or not"
                + (f". Left out: {left_out}" if str(left_out) else "")
            )
        if str(left_out):
            _log.warning("folder:%s: left out %s", top.path, left_out)
        if mixed and classes:
            _log.warning(
                "%s is taken without labels: %d images, such as %s, lie beside its folders, as "
                "many as in one of them",
                self.name,
                len(images),
                images[0],
            )
        self.labels = self.class_names = None
        if labelled:
            self.class_names = list(classes)
            self.labels = np.repeat(np.arange(len(classes), dtype=np.int32), [*classes.values()])

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
        return join(self.root, self._paths[index])

    def relative_name(self, index: int) -> str:
        """Returns the path of one image from the root on."""
        return self._paths[index]

    def stamps(self) -> Iterator[str]:
        """Yields root and paths; of local files sizes and times of change, too."""
        local = not remote.is_remote(self.root)
        yield os.path.realpath(self.root) if local else self.root
        for index in range(len(self)):
            yield self.relative_name(index)
            if local:
                with contextlib.suppress(OSError):  # that it cannot be read is told in reading
                    state = os.stat(self.describe(index))
                    yield f"{state.st_size} {state.st_mtime_ns}"


def read_file(path: str) -> bytes:
    """Returns what a regular file holds.

    Raises:
      Exception: as `open_regular`.
    """
    if remote.is_remote(path) and not path.startswith("file://"):
        return remote.read(path)
    with open_regular(path) as file:
        return file.read()


def open_regular(path: str) -> BinaryIO:
    """Opens a regular file, or one behind a URL.

    Raises:
      Exception: of any kind where it is gone, or no file (a pipe, whose reader would wait for
        ever; a device, which may have no end).
    """
    path = path.removeprefix("file://")
    if remote.is_remote(path):
        return remote.opened(path)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise UnreadableImage(f"{_KINDS.get(stat.S_IFMT(mode), 'a device')} and no regular file")
    # Should it have become a pipe since, opening must not wait either.
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def splits_for_testing(path: str) -> list[str]:
    """Returns the subfolders that are splits to test on, the likeliest first.

    Raises:
      UserError: if the folder cannot be listed.
    """
    for top in _tops(path):
        _, folders = top.list(LeftOut(path))
        if found := _splits_of(top, folders):
            return splits.for_testing(found)
    return []


def _listed(
    folder: Folder, names: Sequence[str], root: str, most: int
) -> Iterator[tuple[str, Names, LeftOut]]:
    """Yields the folders of these names with their first images, several listed at a time.

    Args:
      folder: in which they lie.
      names: of them.
      root: at which paths in messages begin.
      most: how many images of each; 0 for all.

    Yields:
      The name, the paths of its images from `folder` on, and what is left out.
    """

    def listed(name):
        left_out = LeftOut(root)
        below = (join(name, image) for image in folder.child(name).walk(left_out))
        return name, Names(itertools.islice(below, most or None)), left_out

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(listed, names)


def _tops(path: str) -> list[Folder]:
    """Returns a folder of pictures, and it as one of arrays, for the case that it has none."""
    path = path if remote.is_remote(path) else os.path.expanduser(path)
    if not is_folder(path):
        raise UserError(f"data.source='folder:{path}' is no folder; give the path of one")
    return [Folder(path), Folder(path, endings=ARRAYS)]


def _splits_of(top: Folder, folders: list[str]) -> list[str]:
    """Returns which of the folders are splits: all that hold images, or none."""
    if not splits.for_training(folders):
        return []
    found = [name for name in folders if splits.is_split_name(name)]
    others = (top.child(name).walk(LeftOut("")) for name in folders if name not in found)
    return [] if any(next(images, None) for images in others) else found


def _open(
    top: Folder, split: str, key: str, left_out: LeftOut
) -> tuple[Folder, list[str], list[str]]:
    """Returns the folder that holds a split, and the images and the folders right in it."""
    images, folders = top.list(left_out)
    found = _splits_of(top, folders) if split else []
    chosen = _choose(top, split, key, folders, found) if split else ""
    if chosen:
        for image in images if found else ():
            left_out.add(join(top.path, image), "beside the splits")
        folder = top.child(chosen)
        return folder, *folder.list(left_out)
    if split and (likely := [name for name in folders if splits.is_split_name(name)]):
        training = splits.for_training(likely)
        _log.warning(
            "folder:%s: %s taken for %s, for there %s; for one folder alone, give its own path",
            top.path,
            ", ".join(likely),
            "classes" if len(likely) > 1 else "a class",
            "are other folders beside" if training else "is none called train",
        )
    return top, images, folders


def _choose(top: Folder, split: str, key: str, folders: list[str], found: list[str]) -> str:
    """Returns the name of the subfolder that holds a split, "" for the folder itself."""
    if split == "train":
        training = splits.for_training(found)
        if len(training) > 1:
            raise UserError(
                f"data.source='folder:{top.path}' has several parts to train on, "
                f"{', '.join(training)}; give one of them alone: folder:{top.path}/{training[0]}"
            )
        return training[0] if training else ""
    if is_folder(join(top.path, split)):
        return split
    alike = [name for name in found if name.lower() == split.lower()]
    if len(alike) == 1:
        return alike[0]
    listed = ", ".join(folders[:10]) + (", ..." if len(folders) > 10 else "")
    raise UserError(
        f"{key}={split!r} is no subfolder of data.source='folder:{top.path}'; "
        + (f"there are: {listed}" if listed else 'it has none, so only split="train" will do')
    )
