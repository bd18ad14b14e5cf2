"""Lists of images: `list:PATTERN`, CSV, TSV, JSON lines, or a path a line.

    path,label,weight          the first line may name the columns, in any order
    a/1.jpg,cat,1              a path is relative to the list, or a URL
    https://host/2.jpg,dog,2   counts twice in an epoch; 0 is left out

Names of columns are path, file, file_name, filename, filepath, image, image_path or url; label,
class, cls, target or category; weight or repeat. Others are passed over.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.labels import numbered
from ibot_jax.data.sources.listing import join
from ibot_jax.data.sources.names import Names
from ibot_jax.data.sources.ranges import open_file, state_of
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "filepath", "image", "image_path", "url"),
    "label": ("label", "class", "cls", "target", "category"),
    "weight": ("weight", "repeat"),
}
_OF_CSV = {"csv": ",", "tsv": "\t"}
_OF_JSON = ("jsonl", "ndjson", "json")
_OF_LINES = ("txt", "lst")

Row = tuple[str, str, str]  # path, label and weight, as they are written; "" where there is none


class ListSource:
    """Images that lists name, in their order; see `opening.Source`."""

    fetch = staticmethod(read_file)

    def __init__(self, spec: str, files: Sequence[str]):
        """Reads the lists.

        Args:
          spec: how the user names the source.
          files: the lists, paths or URLs.

        Raises:
          UserError: if a list cannot be read or names no image, or a weight is no whole number.
        """
        self.name, self._files = spec, files
        self._names, folders, labels = Names(), [], []
        for number, file in enumerate(files):
            for path, label, weight in rows_of(file):
                for _ in range(_times(weight, file, path)):
                    self._names.extend([path])
                    labels.append(sys.intern(label))  # of millions, few are different
                    folders.append(number)
        if not labels:
            raise UserError(f"data.source={spec!r} names no image; write a path a line")
        self._folder = np.array(folders, np.int32)
        self.labels, self.class_names = numbered(labels, spec)

    @property
    def num_classes(self) -> int | None:
        return self.class_names and len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the path of an image and its label, -1 without labels."""
        return self.describe(index), -1 if self.labels is None else int(self.labels[index])

    def describe(self, index: int) -> str:
        """Returns the path of one image."""
        path = self._names[index]
        if os.path.isabs(path) or remote.is_remote(path):
            return path
        return join(self._files[self._folder[index]].rpartition("/")[0] or ".", path)

    def relative_name(self, index: int) -> str:
        """Returns the path of one image as the list has it."""
        return self._names[index]

    def stamps(self) -> Iterator[str]:
        """Yields the lists, their sizes and times of change, and what they name."""
        for file in self._files:
            yield f"{file} {state_of(file)}"
        yield from map(self.relative_name, range(len(self)))


def rows_of(file: str) -> Iterator[Row]:
    """Yields the rows of a list.

    Raises:
      UserError: if it cannot be read, or is no list.
    """
    kind = file.rpartition(".")[2].lower()
    if kind not in (*_OF_CSV, *_OF_JSON, *_OF_LINES):
        raise UserError(f"{file} is no list; it ends in .csv, .tsv, .jsonl or .txt")
    try:
        with open_file(file) as opened:
            lines = io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape", newline="")
            if kind in _OF_LINES:
                yield from ((line.strip(), "", "") for line in lines if line.strip())
            elif kind in _OF_JSON:
                yield from _rows_of_json(lines, file)
            else:
                yield from _rows_of_csv(lines, _OF_CSV[kind], file)
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); look at the path") from error


def _rows_of_csv(lines: Iterable[str], delimiter: str, file: str) -> Iterator[Row]:
    columns = None
    for row in csv.reader(lines, delimiter=delimiter):
        if not any(row):
            continue
        if columns is None:
            names = [name.strip().lower() for name in row]
            named = {kind: _column(names, kind) for kind in _COLUMNS}
            if named["path"] is not None:
                columns = named
                continue
            columns = {"path": 0, "label": 1, "weight": 2}
        cells = {
            kind: row[place].strip() if place is not None and place < len(row) else ""
            for kind, place in columns.items()
        }
        if not cells["path"]:
            raise UserError(f"{file}: the line {delimiter.join(row)!r} names no path")
        yield cells["path"], cells["label"], cells["weight"]


def _rows_of_json(lines: Iterable[str], file: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{file}: line {number} is no JSON ({error}); write an object"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f'{file}: line {number} is no object; write {{"path": ...}}')
        row = {name.lower(): value for name, value in row.items()}
        names = list(row)
        cells = []
        for kind in _COLUMNS:
            place = _column(names, kind)
            value = None if place is None else row[names[place]]
            cells.append("" if value is None else str(value))
        if not cells[0]:
            raise UserError(f'{file}: line {number} names no path; write {{"path": ...}}')
        yield tuple(cells)


def _column(names: Sequence[str], kind: str) -> int | None:
    """Returns the place of a column of this kind, None if there is none."""
    return next((names.index(name) for name in _COLUMNS[kind] if name in names), None)


def _times(weight: str, file: str, path: str) -> int:
    """Returns how often an image counts in an epoch."""
    if not weight:
        return 1
    try:
        number = float(weight)
        if number < 0 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"{file}: the weight {weight!r} of {path} is no whole number; scale all weights until "
            "they are"
        ) from None
    return int(number)
