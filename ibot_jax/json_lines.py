"""A file with one JSON object a line, on disks and in buckets."""

import contextlib
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from ibot_jax.errors import TrainingError

Row = dict[str, Any]


def parse_object(text: bytes) -> Row:
    """Returns the JSON object in a text.

    Raises:
      ValueError: that says what is there instead, "is no JSON".
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError, too
        raise ValueError("is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    return value


def is_finite_number(value: Any) -> bool:
    """Returns whether a value from a JSON text is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_lines(path: epath.Path) -> list[Row]:
    """Returns the objects in a file, if it exists; lines that a kill cut short are left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
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
            if "://" in str(path):
                self._rewrite(path)
            else:
                temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                self._rewrite(temporary)
                temporary.replace(path)
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
                self._rewrite(self._path)

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

    def _rewrite(self, path: epath.Path) -> None:
        path.write_text("".join(self._lines))

    @contextlib.contextmanager
    def _error_kept(self):
        try:
            yield
        except OSError as error:
            self._error = error

    def _failure(self, error: OSError) -> TrainingError:
        return TrainingError(f"{self._path} cannot be written ({error.strerror or error})")
