"""Parquet files with a column of encoded images: `parquet:PATTERN`, `parquet:PATTERN#IMAGE,LABEL`.

Columns are named behind the #, or found: the image is what the `datasets` library says to be one,
else the column of bytes, or of {"bytes", "path"}, that is called image, img, jpg, png or bytes, or
is the only one; the label is a class label of that library, else a column called label, class, cls
or target.

An image is read with its row group, of which a process keeps a few: write small ones (a hundred
rows), since a shuffled order reads another group for almost every image.
"""

import functools
import json
from typing import Any

import numpy as np

from ibot_jax.data.sources.ranges import open_file
from ibot_jax.data.sources.shards.source import Index
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content")
_LABELS = ("label", "class", "cls", "target")
_KEPT = 4  # row groups, of each process


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
        _, label = columns_of(schema, columns, path)
        numbers = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        labels = [""] * sum(numbers)
        if label:
            found = parquet.read(columns=[label]).column(label).to_pylist()
            names = _features(schema).get(label, {}).get("names")
            labels = ["" if x is None else names[x] if names else str(x) for x in found]
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
        with open_file(path) as file:
            parquet = pq.ParquetFile(file)
            image, _ = columns_of(parquet.schema_arrow, columns, path)
            return parquet.read_row_group(group, columns=[image]).column(image)

    return remote.patiently(read) if remote.is_remote(path) else read()


def columns_of(schema: Any, columns: str, path: str) -> tuple[str, str]:
    """Returns the names of the columns of images and labels, "" where there are no labels.

    Args:
      schema: of a file, PyArrow's.
      columns: as of `index_parquet`.
      path: of the file, for errors.

    Raises:
      UserError: if a column is not there, or none of images is found.
    """
    image, _, label = (part.strip() for part in columns.partition(","))
    for name in filter(None, (image, label)):
        if name not in schema.names:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
    features = _features(schema)
    if not image:
        said = [name for name, feature in features.items() if feature.get("_type") == "Image"]
        of_bytes = [field.name for field in schema if _holds_bytes(field.type)]
        likely = [name for name in of_bytes if name.lower() in _IMAGES]
        alone = of_bytes if len(of_bytes) == 1 else []
        image = next(iter([*said, *likely, *alone]), "")
    if not image:
        raise UserError(
            f"of the columns of {path} none is known to hold images: {', '.join(schema.names)}; "
            "name it, parquet:PATTERN#COLUMN"
        )
    if not label:
        said = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        likely = [name for name in schema.names if name.lower() in _LABELS]
        label = next(iter([*said, *likely]), "")
    return image, label


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Returns what the `datasets` library says of the columns, {} where it has not written them."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: feature for name, feature in told.items() if isinstance(feature, dict)}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
