"""ArrayRecord files: `arrayrecord:PATTERN`, `arrayrecord:PATTERN#IMAGE,LABEL`.

A record is an encoded image as it is, or a `tf.train.Example`, as tensorflow-datasets and many
converters write them. The features of an Example are named behind the #, or found: the image is
called image, image/encoded, img, jpg, png or bytes; the label label, class, cls, target or
image/class/label.

Records are read one at a time: write them with `group_size:1`.
"""

import functools
from typing import Any

import numpy as np

from ibot_jax.data.sources.columns import IMAGES, LABELS, named, none_found
from ibot_jax.data.sources.shards.examples import features_of
from ibot_jax.data.sources.shards.source import Index
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_SPEC = "arrayrecord:PATTERN"
_IMAGES = (*IMAGES, "image/encoded")
_LABELS = (*LABELS, "image/class/label")
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access
_OPEN = 16  # files, of each process
_STEP = 64  # records that are looked into at a time


def index_arrayrecord(path: str, columns: str = "") -> Index:
    """Finds the images of a file, and reads all of it if there are labels. A place is a record.

    Args:
      path: or URL, of gs://.
      columns: "IMAGE", "IMAGE,LABEL" or "", see the module.

    Raises:
      UserError: if it has no such features, or lies behind another URL.
      Exception: of any kind where it is no ArrayRecord.
    """
    reader = _open(path)
    try:
        features = features_of(reader.read([0])[0])  # raises where the file is none
        number = reader.num_records()
        labels = [""] * number
        if features is not None:
            _image_of(features, columns, path)
            label = _label_of(features, columns, path)
            for start in range(0, number if label else 0, _STEP):
                some = range(start, min(start + _STEP, number))
                for place, record in zip(some, reader.read(list(some)), strict=True):
                    labels[place] = _in_words((features_of(record) or {}).get(label))
    finally:
        reader.close()
    places = np.stack([np.arange(number), np.zeros(number, int)], axis=1)
    return Index([f"record {place}" for place in range(number)], places, labels)


def read_record(place: tuple[str, int, int], columns: str = "") -> bytes:
    """Returns the bytes of the image in a record.

    Args:
      place: path or URL, number of the record, and 0.
      columns: as of `index_arrayrecord`.

    Raises:
      Exception: of any kind where there is none.
    """
    path, number, _ = place
    record = _kept_open(path).read([number])[0]
    features = features_of(record)
    found = record if features is None else features[_image_of(features, columns, path)]
    if not isinstance(found, bytes) or not found:
        raise ValueError("the record has no image")
    return found


def _image_of(features: dict[str, Any], columns: str, path: str) -> str:
    image, _ = named(columns, features, path)
    of_bytes = [name for name, value in features.items() if isinstance(value, bytes)]
    likely = [name for name in _IMAGES if name in features]
    image = image or next(iter([*likely, *(of_bytes if len(of_bytes) == 1 else [])]), "")
    if not image:
        raise none_found(sorted(features), path, _SPEC)
    return image


def _label_of(features: dict[str, Any], columns: str, path: str) -> str:
    _, label = named(columns, features, path)
    return label or next((name for name in _LABELS if name in features), "")


def _in_words(label: bytes | int | None) -> str:
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    return "" if label is None else str(label)


@functools.lru_cache(maxsize=_OPEN)
def _kept_open(path: str) -> Any:
    return _open(path)


def _open(path: str) -> Any:
    from array_record.python import array_record_module  # slow to import

    if remote.is_remote(path) and not path.startswith("gs://"):
        raise UserError(
            f"{path}: ArrayRecord files are read from disks and from gs://; mount the store, or "
            "copy the files"
        )
    return array_record_module.ArrayRecordReader(path, _OPTIONS)
