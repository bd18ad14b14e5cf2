"""Features on disk: parts while there are more to come, one file at the end.

    OUT.parts/settings.json       what the features are of
    OUT.parts/START-STOP.npz      the features of images START to STOP - 1 that can be read

Each part has its own name only when it is whole, and so has OUT.
"""

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import renamed, write_json
from ibot_jax.files.json_files import as_json
from ibot_jax.runs.lock import Lock

_SETTINGS = "settings.json"
_PART = re.compile(r"(\d{12})-(\d{12})\.npz")
Part = dict[str, np.ndarray]  # names [M] str, class [M, D] and perhaps patches [M, N, D]


class Parts:
    """The parts of one file.

    Attributes:
      end: how many images are done.
      close: a function that lets another command have the folder.
    """

    def __init__(self, target: epath.Path, settings: Mapping[str, Any], images: int):
        """Finds what an earlier command has left, and keeps others out until it is closed.

        Args:
          target: the file that is to be, which ends in a key of `FORMATS`.
          settings: what the features are of; JSON types only.
          images: how many there are.

        Raises:
          UserError: if the folder of the parts holds those of something else, or what is no part,
            or cannot be written, or another command writes there.
        """
        self._target = target
        self._images = images
        self._folder = target.with_name(f"{target.name}.parts")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                self._lock = stack.enter_context(Lock(self._folder, flag="--out").held())
                self._compare(settings)
                self._paths = self._find()
                self.close = stack.pop_all().close
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--out={target} cannot be written ({reason})") from error
        self.end = int(self._paths[-1].stem.split("-")[1]) if self._paths else 0

    def _compare(self, settings: Mapping[str, Any]) -> None:
        file = self._folder / _SETTINGS
        if not file.exists():
            if parts := [path for path in self._entries() if _PART.fullmatch(path.name)]:
                raise self._odd(parts[0], f"lies there without {_SETTINGS}")
            write_json(file, settings)
            return
        try:
            earlier = json.loads(file.read_text())
            changed = [k for k, v in json.loads(as_json(settings)).items() if earlier.get(k) != v]
        except (ValueError, AttributeError, RecursionError, OSError) as error:
            raise self._odd(file, f"is damaged ({error})") from error
        if changed:
            raise UserError(
                f"{self._folder} holds features of other {' and '.join(changed)}; remove it, or "
                "choose another --out"
            )

    def _find(self) -> list[epath.Path]:
        """Returns the parts in order, as far as none is missing."""
        found, end = [], 0
        for path in self._entries():
            if path.name == _SETTINGS:
                continue
            name = _PART.fullmatch(path.name)
            start, stop = map(int, name.groups()) if name else (0, 0)
            if not start < stop <= self._images:
                raise self._odd(path, "is no part")
            if start == end:
                _require_whole(path, stop - start)
                found.append(path)
                end = stop
        return found

    def _entries(self) -> list[epath.Path]:
        """Returns what the folder holds, without what an interrupted writer left, by name."""
        return sorted(path for path in self._folder.iterdir() if not path.name.startswith("."))

    def _odd(self, path: epath.Path, what: str) -> UserError:
        return UserError(
            f"{path} {what}; remove {self._folder}, whose features are then computed anew, or "
            "choose another --out"
        )

    def add(self, start: int, stop: int, part: Mapping[str, Any]) -> None:
        """Writes the features of images `start` to `stop` - 1."""
        self._lock.check()
        path = self._folder / f"{start:012d}-{stop:012d}.npz"
        with renamed(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: np.asarray(array) for name, array in part.items()})
        self._paths.append(path)
        self.end = stop

    def finish(self, grid: tuple[int, int] | None) -> int:
        """Joins all parts to the file, removes them, and returns how many images it has.

        Args:
          grid: rows and columns of patches, for readers; None without patch tokens.
        """
        number = sum(len(part["class"]) for part in self._read(("class",)))
        if number:
            with renamed(self._target) as temporary:
                FORMATS[self._target.suffix](temporary, self._read, number, grid)
        self.close()
        self._folder.rmtree()
        return number

    def _read(self, names: Sequence[str] | None = None) -> Iterator[Part]:
        """Yields the parts that hold anything, or only some of their arrays."""
        for path in self._paths:
            part = _read_part(path, names)
            if len(next(iter(part.values()))):
                yield part


def _read_part(path: epath.Path, names: Sequence[str] | None) -> Part:
    """Returns some arrays of a part, or all.

    Raises:
      UserError: if it is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise UserError(
            f"{path} is damaged ({error}); remove it: the same command computes it anew"
        ) from error


def _require_whole(path: epath.Path, most: int) -> None:
    """Raises a UserError if a part is none of at most so many images."""
    names = _read_part(path, ("names",))["names"]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) > most:
        raise UserError(f"{path} is no part of at most {most} images; remove it")


Read = Callable[..., Iterator[Part]]


def _write_npz(path: epath.Path, read: Read, number: int, grid: tuple[int, int] | None) -> None:
    """Writes each array part by part, so that no more than one is in memory."""
    arrays = ("names", "class", "patches") if grid else ("names", "class")
    width = max(part["names"].dtype.itemsize for part in read(("names",))) // 4
    with path.open("wb") as opened, zipfile.ZipFile(opened, "w") as archive:
        for name in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for index, part in enumerate(read((name,))):
                    rows = part[name].astype(f"<U{width}" if name == "names" else "<f4")
                    if not index:
                        header = {
                            "descr": rows.dtype.str,
                            "fortran_order": False,
                            "shape": (number, *rows.shape[1:]),
                        }
                        np.lib.format.write_array_header_2_0(file, header)
                    file.write(rows.tobytes())


def _write_parquet(path: epath.Path, read: Read, number: int, grid: tuple[int, int] | None) -> None:
    """Writes a group of rows for each part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(array: np.ndarray) -> pa.Array:
        flat = array.reshape(len(array), -1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])

    with path.open("wb") as file:
        writer = None
        for part in read():
            columns = {"name": pa.array(part["names"].tolist(), pa.string())}
            columns |= {n: column(part[n]) for n in ("class", "patches") if n in part}
            table = pa.table(columns)
            if writer is None:
                shape = {"patch_grid": json.dumps(grid)} if grid else {}
                writer = pq.ParquetWriter(file, table.schema.with_metadata(shape))
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
        writer.close()


FORMATS = {".npz": _write_npz, ".parquet": _write_parquet}
