"""Lists of images: `list:PATTERN`, CSV, TSV, JSON lines, or a path a line.

    path,label,weight          the first line may name the columns, in any order
    a/1.jpg,cat,1              a path is relative to the list, or a URL
    https://host/2.jpg,dog,2   counts twice in an epoch; 0 is left out

Names of columns are those of `_COLUMNS`, and of `excerpts` where an image is a part of a file.
Others are passed over. A CSV that names its columns may have semicolons or tabs between them.
"""

import array
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ibot_jax.data.sources import excerpts
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.labels import numbered
from ibot_jax.data.sources.listing import join
from ibot_jax.data.sources.names import Names
from ibot_jax.data.sources.ranges import open_file, state_of
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_COLUMNS = {
    "path": (
        *("path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path"),
        *("image_name", "image_file", "image_url", "img", "img_path", "url"),
    ),
    "label": ("label", "class", "cls", "target", "category"),
    "weight": ("weight", "repeat"),
    **{name: (name,) for name in excerpts.COLUMNS},
}
_OF_CSV = {"csv": ",", "tsv": "\t"}
_DELIMITERS = (",", "\t", ";")
_MOST_TIMES = 1_000_000  # that an image counts in an epoch: more is a weight of another kind
_OF_JSON = ("jsonl", "ndjson", "json")
_OF_LINES = ("txt", "lst")

Row = tuple[str, ...]  # a cell for each of `_COLUMNS`, as it is written; "" where there is none


class ListSource:
    """Images that lists name, in their order; see `opening.Source`."""

    def __init__(self, spec: str, files: Sequence[str]):
        """Reads the lists.

        Args:
          spec: how the user names the source.
          files: the lists, paths or URLs.

        Raises:
          UserError: if a list cannot be read or names no image, or a weight is no whole number.
        """
        self.name, self._files = spec, files
        self._names, folders, labels, places = Names(), [], [], array.array("q")
        whole = (excerpts.NONE,) * len(excerpts.COLUMNS)
        for number, file in enumerate(files):
            for path, label, weight, *cells in rows_of(file):
                place = excerpts.numbers_of(cells, file, path) if any(cells) else whole
                if any(cells) and not places:  # of lists of whole files nothing is kept
                    places.extend(whole * len(labels))
                _check_path(path, file)
                for _ in range(_times(weight, file, path)):
                    self._names.extend([path])
                    labels.append(sys.intern(label))  # of millions, few are different
                    folders.append(number)
                    places.extend(place if any(cells) or places else ())
        if not labels:
            raise UserError(f"data.source={spec!r} names no image; write a path a line")
        self._folder = np.array(folders, np.int32)
        found = np.array(places, np.int64).reshape(-1, len(excerpts.COLUMNS))
        self._places = found if len(found) else None
        self.fetch = read_file if self._places is None else excerpts.read_excerpt
        self.labels, self.class_names = numbered(labels, spec)

    @property
    def num_classes(self) -> int | None:
        return self.class_names and len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def locate(self, index: int) -> tuple[str | excerpts.Place, int]:
        """Returns where an image lies, a path or a part of a file, and its label, -1 without."""
        located = self._part(self._path(index), index)
        return located, -1 if self.labels is None else int(self.labels[index])

    def describe(self, index: int) -> str:
        """Returns the path of one image, and which part of the file it is."""
        return str(self._part(self._path(index), index))

    def relative_name(self, index: int) -> str:
        """Returns the path of one image as the list has it, and which part of the file it is."""
        return str(self._part(self._names[index], index))

    def _path(self, index: int) -> str:
        path = self._names[index]
        if os.path.isabs(path) or remote.is_remote(path):
            return path
        return join(self._files[self._folder[index]].rpartition("/")[0] or ".", path)

    def _part(self, path: str, index: int) -> str | excerpts.Place:
        if self._places is None:
            return path
        return excerpts.Place(path, *self._places[index].tolist())

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
                rest = ("",) * (len(_COLUMNS) - 1)
                yield from ((line.strip(), *rest) for line in lines if line.strip())
            elif kind in _OF_JSON:
                yield from _rows_of_json(lines, file)
            else:
                yield from _rows_of_csv(lines, _OF_CSV[kind], file)
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); look at the path") from error


def _rows_of_csv(lines: Iterable[str], delimiter: str, file: str) -> Iterator[Row]:
    lines = iter(lines)
    first = next((line for line in lines if line.strip()), "")
    named = [other for other in (delimiter, *_DELIMITERS) if _names_a_path(first, other)]
    delimiter = next(iter(named), delimiter)
    columns = None
    for row in csv.reader(
        itertools.chain([first], lines), delimiter=delimiter, skipinitialspace=True
    ):
        if not any(row):
            continue
        if columns is None:
            columns = _columns(_lowered(row))
            if columns["path"] is not None:
                continue
            if columns["label"] is not None or columns["weight"] is not None:
                raise UserError(
                    f"{file}: none of the columns {', '.join(row)} is known to hold paths; call it "
                    "path"
                )
            columns = dict.fromkeys(_COLUMNS) | {"path": 0, "label": 1, "weight": 2}
        cells = {
            kind: row[place].strip() if place is not None and place < len(row) else ""
            for kind, place in columns.items()
        }
        if not cells["path"]:
            raise UserError(f"{file}: the line {delimiter.join(row)!r} names no path")
        if odd := next((cell for cell in cells.values() if "\n" in cell), ""):
            raise UserError(
                f"{file}: {odd.splitlines()[0]!r} goes on in the next line; close its quotes"
            )
        yield tuple(cells.values())


def _names_a_path(line: str, delimiter: str) -> bool:
    """Tells whether a line has the names of columns, with this between them, and one of paths."""
    row = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return _columns(_lowered(row))["path"] is not None


def _lowered(names: Iterable[str]) -> list[str]:
    return [name.strip().lower() for name in names]


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
        for place in _columns(names).values():
            value = None if place is None else row[names[place]]
            cells.append("" if value is None else str(value))
        if not cells[0]:
            raise UserError(f'{file}: line {number} names no path; write {{"path": ...}}')
        yield tuple(cells)


def _columns(names: Sequence[str]) -> dict[str, int | None]:
    """Returns the place of the column of each kind, None where there is none."""
    found = {
        kind: next((names.index(name) for name in known if name in names), None)
        for kind, known in _COLUMNS.items()
    }
    if any(found[side] is None for side in excerpts.WINDOW):  # then they are something else
        found |= dict.fromkeys(excerpts.WINDOW)
    return found


def _check_path(path: str, file: str) -> None:
    """Raises a UserError where no file can be called so: the list is no UTF-8."""
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("it has a zero byte, as texts of two bytes a letter have")
    except ValueError as error:
        raise UserError(f"{file}: {path!r} is no path ({error}); save the list as UTF-8") from error


def _times(weight: str, file: str, path: str) -> int:
    """Returns how often an image counts in an epoch."""
    if not weight:
        return 1
    try:
        number = float(weight)
        if not 0 <= number <= _MOST_TIMES or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"{file}: the weight {weight!r} of {path} is no whole number from 0 to "
            f"{_MOST_TIMES:,}; scale all weights until they are"
        ) from None
    return int(number)
