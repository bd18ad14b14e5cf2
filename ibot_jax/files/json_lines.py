"""A file with one JSON object a line, on disks and in buckets."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from ibot_jax.errors import TrainingError, UserError
from ibot_jax.files.atomic import write_bytes
from ibot_jax.files.json_files import parse_object
from ibot_jax.files.remote import is_remote

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def read_lines(path: epath.Path, is_row: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Returns the objects in a file, if it exists; a line that a kill cut short is left out.

    Other lines that hold no such object are left out with a warning that counts and names them.

    Args:
      path: of the file.
      is_row: whether an object is what the file should hold.

    Raises:
      UserError: if the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; move it elsewhere") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    rows, odd = [], []
    for number, line in enumerate([*lines, last], start=1):
        try:
            row = parse_object(line)
            if not is_row(row):
                raise ValueError
            rows.append(row)
        except ValueError:
            if number <= len(lines) and line.strip():
                odd.append(number)
    if odd:
        named = ", ".join(map(str, odd[:5])) + (", ..." if len(odd) > 5 else "")
        _log.warning("%s: left out what is damaged, %d lines: %s", path, len(odd), named)
    return rows


class JsonLines:
    """The file, open for writing.

    A line is on a disk as soon as it is written. Buckets cannot append: there, `flush` writes the
    whole file anew.
    """

    def __init__(self, path: epath.Path, rows: Sequence[Row]):
        """Replaces what the file holds by these rows, at once or not at all.

        Raises:
          TrainingError: if it cannot be written.
        """
        self._path = path
        self._lines = [json.dumps(row) + "\n" for row in rows]  # all of a bucket's file
        self._error: OSError | None = None
        self._file = None
        try:
            self._rewrite()
            if not is_remote(str(path)):
                self._file = path.open("a")
        except OSError as error:
            raise self._failure(error) from error

    def write(self, row: Row) -> None:
        """Adds a row; an error is kept for `check`."""
        line = json.dumps(row) + "\n"
        with self._error_kept():
            if self._file is None:
                self._lines.append(line)
            else:
                self._file.write(line)
                self._file.flush()

    def flush(self) -> None:
        """Makes sure that all rows are written; an error is kept for `check`."""
        if self._file is None:
            with self._error_kept():
                self._rewrite()

    def check(self) -> None:
        """Raises a TrainingError if rows could not be written."""
        if self._error is not None:
            raise self._failure(self._error)

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        if self._file is not None:
            with self._error_kept():
                self._file.close()

    def _rewrite(self) -> None:
        write_bytes(self._path, "".join(self._lines).encode())

    @contextlib.contextmanager
    def _error_kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = error

    def _failure(self, error: OSError) -> TrainingError:
        return TrainingError(f"{self._path} cannot be written ({error.strerror or error})")
