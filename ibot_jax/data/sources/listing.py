"""Folders looked through for images: what lies in them, and what is passed by and told."""

import os
from collections.abc import Iterable, Iterator

from ibot_jax.errors import UserError
from ibot_jax.files import remote

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
# These count where there are none of the others: arrays lie beside pictures for other reasons.
ARRAYS = ("npy", "npz", "dcm", "dicom")
# Folders that systems and archivers leave behind; hidden ones (".name") are ignored as well.
_IGNORED = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_MAX_NAMED = 3  # for each reason; a message should not fill the screen


class LeftOut:
    """What a listing leaves out, by reason; in a message, paths begin at its root."""

    def __init__(self, root: str):
        self._prefix = root.rstrip("/") + "/"
        self._names: dict[str, list[str]] = {}
        self._numbers: dict[str, int] = {}

    def add(self, path: str, reason: str) -> None:
        """Notes something that is left out; the reason says what it is."""
        self._numbers[reason] = self._numbers.get(reason, 0) + 1
        if self._numbers[reason] <= _MAX_NAMED:
            self._names.setdefault(reason, []).append(path.removeprefix(self._prefix))

    def update(self, other: "LeftOut") -> None:
        """Notes what another one with this root has noted."""
        for reason, number in other._numbers.items():
            self._numbers[reason] = self._numbers.get(reason, 0) + number
            names = self._names.get(reason, []) + other._names[reason]
            self._names[reason] = names[:_MAX_NAMED]

    def __str__(self) -> str:
        """Returns what was left out as words of one line, "" if nothing was."""
        parts = []
        for reason, names in self._names.items():
            more = self._numbers[reason] - len(names)
            also = f" and {more:,} more" if more else ""
            parts.append(f"{', '.join(names)}{also} ({reason})")
        return "; ".join(parts)


class Folder:
    """A folder, which may lie in one that is listed, too.

    Attributes:
      path: of the folder.
      endings: of the files that are images.
    """

    def __init__(
        self,
        path: str,
        above: "Folder | None" = None,
        endings: tuple[str, ...] = EXTENSIONS,
    ):
        self.path = path
        self.endings = endings
        self._above = above
        self._real = None if remote.is_remote(path) else os.path.realpath(path)

    def list(self, left_out: LeftOut) -> tuple[list[str], list[str]]:
        """Returns the sorted names of the images and of the folders right in it.

        Raises:
          UserError: if it cannot be listed.
        """
        try:
            found = list(self._entries(left_out))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self.path} cannot be listed ({reason}); check its permissions"
            ) from error
        files = (name for name, is_folder in found if not is_folder)
        images = sorted(name for name in files if is_image(name, self.endings))
        return images, sorted(name for name, is_folder in found if is_folder)

    def child(self, name: str) -> "Folder":
        """Returns the folder of this name in it."""
        return Folder(join(self.path, name), self, self.endings)

    def walk(self, left_out: LeftOut) -> Iterator[str]:
        """Yields the images in it and below, by name, relative to it."""
        images, folders = self.list(left_out)
        yield from images
        for folder in folders:
            for image in self.child(folder).walk(left_out):
                yield join(folder, image)

    def _entries(self, left_out: LeftOut) -> Iterator[tuple[str, bool]]:
        """Yields name and "is a folder" of what counts; links that lead back would never end."""
        if self._real is None:
            found = remote.entries(self.path)
            yield from (entry for entry in found if not _is_ignored(entry[0]))
            return
        with os.scandir(self.path) as entries:
            for entry in entries:
                if _is_ignored(entry.name):
                    continue
                is_folder = _is_folder(entry)
                if entry.is_symlink() and (is_folder or not is_image(entry.name, self.endings)):
                    path = join(self.path, entry.name)
                    if not os.path.exists(path):
                        left_out.add(path, "a link to nowhere")
                        continue
                    if is_folder and self._leads_back(path):
                        left_out.add(path, "a link back to a folder that it lies in")
                        continue
                yield entry.name, is_folder

    def _leads_back(self, link: str) -> bool:
        target = os.path.realpath(link).rstrip("/") + "/"
        folder = self
        while folder is not None:
            if (folder._real.rstrip("/") + "/").startswith(target):
                return True
            folder = folder._above
        return False


def is_image(name: str, endings: tuple[str, ...] = EXTENSIONS) -> bool:
    """Tells images by their extension."""
    return name.rpartition(".")[2].lower() in endings


def endings_among(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the extensions of images in an archive, those of arrays if there is no picture."""
    return EXTENSIONS if any(map(is_image, names)) else ARRAYS


def is_counted(path: str) -> bool:
    """Tells what counts in an archive from what is hidden, or left behind by systems."""
    return not any(map(_is_ignored, path.split("/")))


def is_folder(path: str) -> bool:
    """Tells whether a folder is there, on a local disk or behind a URL."""
    return remote.is_folder(path) if remote.is_remote(path) else os.path.isdir(path)


def join(*parts: str) -> str:
    """Joins the parts of a path or URL."""
    return "/".join((parts[0].rstrip("/"), *parts[1:]))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle, or where nobody may look
        return False
