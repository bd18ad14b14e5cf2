"""Columns of a table that hold images and labels, named by the user or found.

The image is what the `datasets` library says to be one, else a column of bytes, or of {"bytes",
"path"}: the only one, or of several the one that is called image, img, jpg, png or bytes. The label
is a class label of that library, else a column called label, class, cls or target.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ibot_jax.errors import UserError

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content")
LABELS = ("label", "class", "cls", "target")


def columns_of(schema: Any, columns: str, where: str, spec: str) -> tuple[str, str]:
    """Returns the names of the columns of images and labels, "" where there are no labels.

    Args:
      schema: of the table, PyArrow's.
      columns: "IMAGE", "IMAGE,LABEL" or "", see the module.
      where: the table lies, for errors.
      spec: how a user writes such a source, up to the #.

    Raises:
      UserError: if a column is not there, or none of images is found.
    """
    image, label = named(columns, schema.names, where)
    features = _features(schema)
    of_bytes = [field.name for field in schema if _holds_bytes(field.type)]
    if image and image not in of_bytes:
        kind = schema.field(image).type
        raise UserError(
            f"the column {image!r} of {where} holds {kind}; images are bytes, or "
            '{"bytes", "path"}'
        )
    if not image:
        said = [name for name in of_bytes if features.get(name, {}).get("_type") == "Image"]
        image = _found(said or of_bytes, IMAGES)
    if not image:
        raise none_found(schema.names, where, spec)
    if not label:
        said = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        label = _found(said, LABELS) or next(iter(said), "") or _called(schema.names, LABELS)
    return image, label


def _found(names: Sequence[str], known: Sequence[str]) -> str:
    """Returns the only name, or of several the one that is known; "" if there is none."""
    return names[0] if len(names) == 1 else _called(names, known)


def _called(names: Sequence[str], known: Sequence[str]) -> str:
    """Returns the name that comes first among those known, "" if none does."""
    likely = [name for name in names if name.lower() in known]
    return min(likely, key=lambda name: known.index(name.lower()), default="")


def named(columns: str, names: Iterable[str], where: str) -> tuple[str, str]:
    """Returns the columns of images and labels that a user names, "" for those that he does not.

    Args:
      columns: "IMAGE", "IMAGE,LABEL" or "".
      names: of the columns that there are.
      where: they are, for errors.

    Raises:
      UserError: if one is not there.
    """
    image, _, label = (part.strip() for part in columns.partition(","))
    for name in filter(None, (image, label)):
        if name not in names:
            raise UserError(f"{where} has no column {name!r}; it has {', '.join(names)}")
    return image, label


def none_found(names: Iterable[str], where: str, spec: str) -> UserError:
    """Returns the error that says that no column of images is found."""
    return UserError(
        f"of the columns of {where} none is known to hold images: {', '.join(names)}; name it, "
        f"{spec}#COLUMN"
    )


def labels_in_words(values: Iterable[Any], schema: Any, label: str) -> list[str]:
    """Returns the labels of a column as texts, "" where there is none.

    Of a class label of the `datasets` library that is -1, such as those of hidden test splits.
    """
    names = _features(schema).get(label, {}).get("names")
    if names:
        return ["" if x is None or x < 0 else names[x] for x in values]
    return ["" if x is None else str(x) for x in values]


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Returns what the `datasets` library says of the columns, {} where it has not written them."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: feature for name, feature in told.items() if isinstance(feature, dict)}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as of

    if of.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    if of.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    tests = (of.is_binary, of.is_large_binary, of.is_fixed_size_binary, of.is_binary_view)
    return any(test(kind) for test in tests)
