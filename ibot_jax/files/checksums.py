"""Checksums of a checkpoint: what its files were when it was saved, compared before they are read.

    checkpoints/STEP/checksums.json
        {"step": STEP, "metadata": CRC,
         "files": {"teacher/_METADATA": {"bytes": N, "crc32": CRC}}, "crc32": CRC of all this}

The file is written while the checkpoint still has its temporary name, so that a checkpoint has it
or is none. It holds size and CRC-32 of every file that Orbax wrote, and the CRC-32 of what
`_CHECKPOINT_METADATA` says, to which Orbax adds the time afterwards. A file that was cut, changed,
lost, or taken from another step is not what the list says; files that it does not name do not
matter. Checkpoints of versions before have no list, and `_CHECKPOINT_METADATA` does not announce
one: of them only the presence and the form of small files is looked at.
"""

import concurrent.futures
import json
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from etils import epath

from ibot_jax.files.atomic import write_bytes
from ibot_jax.files.json_files import is_finite_number, parse_object

FILE = "checksums.json"
FIGURES = "metrics/metrics"  # where Orbax keeps what was evaluated at the step, as JSON
ANNOUNCED = {"checksums": FILE}  # in Orbax's metadata of a checkpoint that must have the file

_METADATA = "_CHECKPOINT_METADATA"
_TIME = "commit_timestamp_nsecs"  # of the metadata, written after the list
_UNLISTED = (FILE, _METADATA, "commit_success.txt")  # written later, or of no meaning once renamed
_CHUNK = 1 << 22  # bytes that are read at a time
_THREADS = 8  # zlib leaves Python's lock, and storage in a network likes company


def write_checksums(folder: epath.Path, step: int) -> None:
    """Writes the list of a checkpoint whose files are complete.

    Args:
      folder: of the checkpoint, wherever it lies now.
      step: of the checkpoint.
    """
    names = [name for name in _files(folder) if name.rpartition("/")[2] not in _UNLISTED]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda name: _checksum(folder / name), names)
        files = dict(zip(names, found, strict=True))
    _write(folder, {"step": step, "metadata": _metadata_checksum(folder), "files": files})


def add_figures(folder: epath.Path, figures: dict[str, float]) -> None:
    """Adds what was evaluated to a checkpoint that has no figures, and to its list."""
    path = folder / FIGURES
    path.parent.mkdir(exist_ok=True)
    write_bytes(
        path, json.dumps(figures).encode()
    )  # first: what the list does not name is no damage
    if (folder / FILE).exists():
        recorded = _read_list(folder)
        recorded["files"][FIGURES] = _checksum(path)
        _write(folder, recorded)


def is_listed(folder: epath.Path) -> bool:
    """Returns whether a checkpoint has its list; those of earlier versions have none."""
    return (folder / FILE).exists()


def find_damage(
    folder: epath.Path, step: int, parts: Collection[str] | None, *, small_only: bool = False
) -> str | None:
    """Looks for damage in a checkpoint.

    Args:
      folder: of the checkpoint.
      step: that it is to be of.
      parts: that are going to be read, such as "teacher"; others are not looked at. None for all
        that it says it has.
      small_only: leave out what takes long: the checksums of the parts.

    Returns:
      What is damaged and how, beginning with the file's path in the folder; None if nothing is.
    """
    try:
        return _find_damage(folder, step, parts, small_only)
    except OSError as error:
        return f"{getattr(error, 'filename', None) or folder} cannot be read ({error.strerror})"


def read_figures(folder: epath.Path) -> dict[str, float]:
    """Returns what was evaluated at a checkpoint's step; nothing if nothing was.

    Raises:
      ValueError: if the file is damaged.
    """
    path = folder / FIGURES
    if not path.exists():
        return {}
    figures = _read_object(path)
    if not all(map(is_finite_number, figures.values())):
        raise ValueError("holds what is no finite number")
    return figures


def _find_damage(
    folder: epath.Path, step: int, parts: Collection[str] | None, small_only: bool
) -> str | None:
    if damage := _form_damage(folder, _METADATA):
        return damage
    metadata = _read_object(folder / _METADATA)
    if not isinstance(metadata.get("item_handlers"), dict):
        return f"{_METADATA} names no parts"
    if parts is None:
        parts = metadata["item_handlers"].keys() - {FIGURES.partition("/")[0]}
    for part in sorted(parts):
        if damage := _form_damage(folder, f"{part}/_METADATA"):
            return damage
    if not (folder / FILE).exists():
        if metadata.get("custom_metadata") == ANNOUNCED:
            return f"{FILE} is missing"
        return _figures_damage(folder)
    try:
        recorded = _read_list(folder)
    except ValueError as error:
        return f"{FILE} {error}"
    expected = recorded["files"]
    if recorded["step"] != step:
        return f"{FILE} is that of step {recorded['step']}"
    if recorded["metadata"] != _metadata_checksum(folder):
        return f"{_METADATA} is not what was written"
    if unknown := [part for part in parts if f"{part}/_METADATA" not in expected]:
        return f"{FILE} does not name {unknown[0]}"
    read = () if small_only else parts
    wanted = [name for name in expected if name == FIGURES or name.partition("/")[0] in read]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        compared = threads.map(lambda name: _difference(folder, name, expected[name]), wanted)
        damages = [damage for damage in compared if damage]
    return damages[0] if damages else _figures_damage(folder)


def _form_damage(folder: epath.Path, name: str) -> str | None:
    """Returns what is wrong with a small file of JSON by its look, if anything is."""
    if not (folder / name).exists():
        return f"{name} is missing"
    try:
        _read_object(folder / name)
    except ValueError as error:
        return f"{name} {error}"
    return None


def _difference(folder: epath.Path, name: str, expected: dict[str, int]) -> str | None:
    """Returns in what a file differs from what was written, if it does."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().length
    if size != expected["bytes"]:
        return f"{name} has {size:,} bytes, not {expected['bytes']:,}"
    if _checksum(path) != expected:
        return f"{name} is not what was written (its checksum differs)"
    return None


def _figures_damage(folder: epath.Path) -> str | None:
    try:
        read_figures(folder)
    except ValueError as error:
        return f"{FIGURES} {error}"
    return None


def _checksum(path: epath.Path) -> dict[str, int]:
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return {"bytes": size, "crc32": crc}


def _metadata_checksum(folder: epath.Path) -> int:
    said = {key: value for key, value in _read_object(folder / _METADATA).items() if key != _TIME}
    return _checksum_of_json(said)


def _checksum_of_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _files(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all files below a folder, relative to it, by name."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def _read_object(path: epath.Path) -> dict[str, Any]:
    return parse_object(path.read_bytes())


def _read_list(folder: epath.Path) -> dict[str, Any]:
    """Returns the list without its own checksum; raises a ValueError if that does not fit."""
    recorded = _read_object(folder / FILE)
    if recorded.pop("crc32", None) != _checksum_of_json(recorded):
        raise ValueError("is not what was written (its checksum differs)")
    return recorded


def _write(folder: epath.Path, recorded: dict[str, Any]) -> None:
    recorded = recorded | {"crc32": _checksum_of_json(recorded)}
    write_bytes(folder / FILE, json.dumps(recorded, indent=1).encode())
