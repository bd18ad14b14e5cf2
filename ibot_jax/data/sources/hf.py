"""Hugging Face's `datasets` library: `hf:NAME`, `hf:NAME:SPLIT`, `hf:NAME#IMAGE,LABEL`.

NAME is a folder that `save_to_disk` wrote, one of files that `load_dataset` takes, or of the hub:
ORG/NAME, or ORG/NAME/CONFIG where a data set has several. Nothing is decoded by the library, whose
Arrow files have random access by row.
"""

import os
from collections.abc import Iterator
from typing import Any

from ibot_jax.data.sources import splits
from ibot_jax.data.sources.columns import columns_of, labels_in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.labels import numbered
from ibot_jax.data.sources.ranges import state_of
from ibot_jax.errors import UserError
from ibot_jax.files import remote

_SAVED = ("state.json", "dataset_dict.json")  # by `save_to_disk`, of one split and of several


class HfSource:
    """A split of a data set, in the order of its rows; see `opening.Source`."""

    def __init__(self, spec: str, split: str, *, key: str = "split"):
        """Opens it.

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
                f"{key}={split!r} is not in data.source={spec!r}, which has one split, {only}; "
                f"write hf:{name}"
            )
        found = _opened(name, spec)
        import datasets  # it is there, and slow to import

        try:
            instruction = datasets.ReadInstruction.from_spec(only or split)
            ranges = instruction.to_absolute({name: len(part) for name, part in found.items()})
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"{key}={only or split!r} is not in data.source={spec!r}; it has "
                f'{", ".join(found)} and parts such as "train[:10%]"'
            ) from error
        self._ranges = [(part.splitname, part.from_, part.to) for part in ranges]
        rows = datasets.concatenate_datasets(
            [found[name].select(range(start, stop)) for name, start, stop in self._ranges]
        )
        if not len(rows):
            raise UserError(f"{key}={only or split!r} of data.source={spec!r} is empty")
        schema = rows.features.arrow_schema
        self._image, label = columns_of(schema, columns, f"data.source={spec!r}", f"hf:{name}")
        self._root, self.name = name, f"hf:{name}, {only or split}"
        self._short = os.path.basename(name.rstrip("/")) if os.path.isdir(name) else name
        images = rows.select_columns([self._image])
        if isinstance(rows.features[self._image], datasets.Image):
            images = images.cast_column(self._image, datasets.Image(decode=False))
        self._images = images
        self.fetch = read_cell
        labels = [""] * len(rows)
        if label:
            column = rows.select_columns([label]).with_format("arrow")[:].column(label)
            labels = labels_in_words(column.to_pylist(), schema, label)
        self.labels, self.class_names = numbered(labels, spec)

    @property
    def num_classes(self) -> int | None:
        return self.class_names and len(self.class_names)

    def __len__(self) -> int:
        return len(self._images)

    def locate(self, index: int) -> tuple[bytes | str, int]:
        """Returns the bytes of an image, or its path, and its label, -1 without labels."""
        cell = self._images[index][self._image]
        if isinstance(cell, dict):
            cell = cell["bytes"] or cell.get("path")
        return cell or b"", -1 if self.labels is None else int(self.labels[index])

    def describe(self, index: int) -> str:
        """Returns the name of the data set, and the row of an image in it."""
        return f"{self.name}, row {index}"

    def relative_name(self, index: int) -> str:
        """Returns the name of the data set, of a folder its last part, and the row."""
        return f"{self._short}, row {index}"

    def stamps(self) -> Iterator[str]:
        """Yields name, number, and the Arrow files with their sizes and times of change."""
        yield from (self.name, str(len(self)))
        for file in self._images.cache_files:
            yield f"{file['filename']} {state_of(file['filename'])}"

    def parts(self) -> list[tuple[str, int, int]]:
        """Returns the splits of these rows, and of each the first and one behind the last."""
        return [(f"{self._root}, {name}", start, stop) for name, start, stop in self._ranges]


def read_cell(found: bytes | str) -> bytes:
    """Returns the bytes of an image, from those of its row or from the file that the row names.

    Raises:
      Exception: of any kind where there is none.
    """
    if isinstance(found, str):
        return read_file(found)
    if not found:
        raise ValueError("the row has no image")
    return found


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
