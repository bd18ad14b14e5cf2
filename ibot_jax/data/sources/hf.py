"""Hugging Face's `datasets` library: `hf:NAME`, `hf:NAME:SPLIT`, `hf:NAME#IMAGE,LABEL`.

NAME is a folder that `save_to_disk` wrote, one of files that `load_dataset` takes, or of the hub:
ORG/NAME, or ORG/NAME/CONFIG where a data set has several. The library finds, fetches and converts;
its Arrow files are then read by row, without it, by the processes that make views.
"""

import functools
import os
from typing import Any

import numpy as np

from ibot_jax.data.sources import splits
from ibot_jax.data.sources.columns import columns_of, labels_in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.shards.source import Index, ShardSource, of_unchanged
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_SAVED = ("state.json", "dataset_dict.json")  # by `save_to_disk`, of one split and of several
_OPEN = 1024  # files, of each process, which lie where the system keeps files


def open_hf(spec: str, split: str, *, key: str = "split") -> ShardSource:
    """Opens a split of a data set, in the order of its rows.

    Args:
      spec: how the user names the source.
      split: its name, or a part such as "train[:10%]" or "train+test".
      key: what `split` is called in errors.

    Raises:
      UserError: if there is no such data set, split or column, or it is empty.
    """
    name, only, columns = _parts_of(spec)
    if only and split != "train":
        raise UserError(
            f"{key}={split!r} is not in data.source={spec!r}, which has one split, {only}; write "
            f"hf:{name}"
        )
    split = only or split
    found = _opened(name, spec)
    files, indexes = [], []
    for rows, chosen in _rows_of(found, split, spec, key):
        schema = rows.features.arrow_schema
        image, label = columns_of(schema, columns, f"data.source={spec!r}", f"hf:{name}")
        begin = 0  # of a file
        for file in (told["filename"] for told in rows.cache_files):
            number = _table(file).num_rows
            some = chosen[np.searchsorted(chosen, begin) : np.searchsorted(chosen, begin + number)]
            files.append(file)
            indexes.append(_index(file, some - begin, schema, label))
            begin += number
        if begin != len(rows):
            raise UserError(
                f"data.source={spec!r}: its rows are in another order than its files, or not in "
                "files; write it anew with save_to_disk"
            )
    if not any(len(index.names) for index in indexes):
        raise UserError(f"{key}={split!r} of data.source={spec!r} is empty")
    read = of_unchanged(functools.partial(read_cell, column=image), files)
    return ShardSource(f"hf:{name}, {split}", files, indexes, read)


def read_cell(place: tuple[str, int, int], column: str) -> bytes:
    """Returns the bytes of an image, from its row or from the file that the row names.

    Args:
      place: an Arrow file, row, and 0.
      column: of images.

    Raises:
      Exception: of any kind where there is none.
    """
    path, row, _ = place
    found = _table(path).column(column)[row].as_py()
    if isinstance(found, dict):
        found = found["bytes"] or found.get("path")
    if not found:
        raise ValueError("the row has no image")
    return read_file(found) if isinstance(found, str) else found


@functools.lru_cache(maxsize=_OPEN)
def _table(path: str) -> Any:
    """Returns the table of an Arrow file, of which nothing is read before it is looked at."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(path)).read_all()


def _index(file: str, rows: np.ndarray, schema: Any, label: str) -> Index:
    labels = [""] * len(rows)
    if label:
        column = _table(file).column(label).take(rows)
        labels = labels_in_words(column.to_pylist(), schema, label)
    places = np.stack([rows, np.zeros_like(rows)], axis=1)
    return Index([f"row {row}" for row in rows.tolist()], places, labels)


def _rows_of(
    found: dict[str, Any], split: str, spec: str, key: str
) -> list[tuple[Any, np.ndarray]]:
    """Returns the splits that `split` is of, and of each the numbers of the rows, rising."""
    import datasets

    try:
        instruction = datasets.ReadInstruction.from_spec(split)
        ranges = instruction.to_absolute({name: len(part) for name, part in found.items()})
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"{key}={split!r} is not in data.source={spec!r}; it has {', '.join(found)} and parts "
            'such as "train[:10%]"'
        ) from error
    return [(found[part.splitname], np.arange(part.from_, part.to)) for part in ranges]


def splits_for_testing(spec: str) -> list[str]:
    """Returns the splits that are called like one to test on, the likeliest first.

    Raises:
      UserError: if there is no such data set.
    """
    name, only, _ = _parts_of(spec)
    return [] if only else splits.for_testing(_opened(name, spec))


def _parts_of(spec: str) -> tuple[str, str, str]:
    """Returns name, split and columns of a source; "" for what it does not name."""
    rest, _, columns = spec.removeprefix("hf:").partition("#")
    if remote.is_remote(rest):
        raise UserError(
            f"data.source={spec!r}: hf: reads folders on a disk and data sets of the hub; mount "
            "the store, or use parquet:PATTERN"
        )
    name, _, split = rest.partition(":")
    return os.path.expanduser(name), split, columns


def _opened(name: str, spec: str) -> dict[str, Any]:
    """Returns the splits of a data set, by name."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data.source={spec!r} needs the datasets library; pip install 'ibot-jax[hf]'"
        ) from error
    try:
        if any(os.path.exists(os.path.join(name, file)) for file in _SAVED):
            found = datasets.load_from_disk(name)
        elif os.path.isdir(name):
            found = datasets.load_dataset(name)
        else:
            found = datasets.load_dataset(*_of_hub(name))
    except Exception as error:  # the library has kinds of its own, and those of the hub's client
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.source={spec!r} cannot be opened: {reason}; give a folder that save_to_disk "
            "wrote, or a name of huggingface.co/datasets, ORG/NAME or ORG/NAME/CONFIG"
        ) from error
    return {"train": found} if isinstance(found, datasets.Dataset) else dict(found)


def _of_hub(name: str) -> list[str]:
    """Returns the name of a data set on the hub, and its config where one is named."""
    parts = name.split("/")
    return ["/".join(parts[:2]), *parts[2:]]
