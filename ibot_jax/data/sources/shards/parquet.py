"""Parquet files with a column of encoded images: `parquet:PATTERN`, `parquet:PATTERN#IMAGE,LABEL`.

Columns are named behind the #, or found; see `sources.columns`.

An image is read with its row group, of which a process keeps a few: write small ones (a hundred
rows), since a shuffled order reads another group for almost every image. Where groups lie in a file
is kept as well: it stands at the file's end, and is long where groups are many.
"""

import functools
from typing import Any

import numpy as np

from ibot_jax.data.sources.columns import columns_of, labels_in_words
from ibot_jax.data.sources.ranges import open_file
from ibot_jax.data.sources.shards.source import Index
from ibot_jax.files import remote

_SPEC = "parquet:PATTERN"
_KEPT = 4  # row groups, of each process
_KNOWN = 64  # files of which a process knows where their groups lie


def index_parquet(path: str, columns: str = "") -> Index:
    """Finds the images of a file. A place is a row group, and a row in it.

    Args:
      path: or URL.
      columns: "IMAGE", "IMAGE,LABEL" or "", see the module.

    Raises:
      UserError: if it has no such columns.
      Exception: of any kind where it is no Parquet.
    """
    import pyarrow.parquet as pq  # slow to import

    with open_file(path) as file:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        _, label = columns_of(schema, columns, path, _SPEC)
        numbers = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        labels = [""] * sum(numbers)
        if label:
            found = parquet.read(columns=[label]).column(label).to_pylist()
            labels = labels_in_words(found, schema, label)
    places = [(group, row) for group, number in enumerate(numbers) for row in range(number)]
    rows = [f"row {row}" for row in range(len(places))]
    return Index(rows, np.array(places, np.int64).reshape(-1, 2), labels)


def read_row(place: tuple[str, int, int], columns: str = "") -> bytes:
    """Returns the bytes of the image in a row.

    Args:
      place: path or URL, row group, and row in it.
      columns: as of `index_parquet`.

    Raises:
      Exception: of any kind where there is none.
    """
    path, group, row = place
    cell = _images_of_group(path, group, columns)[row].as_py()
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if not found:
        raise ValueError("the row has no image")
    return found


@functools.lru_cache(maxsize=_KEPT)
def _images_of_group(path: str, group: int, columns: str) -> Any:
    import pyarrow.parquet as pq

    def read():
        metadata, image = _layout(path, columns)
        with open_file(path) as file:
            parquet = pq.ParquetFile(file, metadata=metadata)
            return parquet.read_row_group(group, columns=[image]).column(image)

    return remote.patiently(read) if remote.is_remote(path) else read()


@functools.lru_cache(maxsize=_KNOWN)
def _layout(path: str, columns: str) -> tuple[Any, str]:
    """Returns where the groups of a file lie, and the name of the column of its images."""
    import pyarrow.parquet as pq

    with open_file(path) as file:
        parquet = pq.ParquetFile(file)
        return parquet.metadata, columns_of(parquet.schema_arrow, columns, path, _SPEC)[0]
