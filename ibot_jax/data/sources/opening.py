"""Where images come from: `open_source` turns `config.data.source` into a source.

A source is a sequence of images; nothing is decoded before it is read. All but sequential TFDS data
(`tfds.TfdsStream`) have random access, and so an order that depends on the seed alone.
"""

import functools
import importlib.util
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ibot_jax.config.defaults import MAX_CHANNELS
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.sources import folders, hf, patterns, tfds
from ibot_jax.data.sources.folders import FolderSource
from ibot_jax.data.sources.hf import open_hf
from ibot_jax.data.sources.labels import first_of_each
from ibot_jax.data.sources.lists import ListSource
from ibot_jax.data.sources.patterns import files_of
from ibot_jax.data.sources.shards.arrayrecord import index_arrayrecord, read_record
from ibot_jax.data.sources.shards.indexes import indexes_of
from ibot_jax.data.sources.shards.parquet import index_parquet, read_row
from ibot_jax.data.sources.shards.source import ShardSource, of_unchanged
from ibot_jax.data.sources.shards.tar import index_tar, read_member
from ibot_jax.data.sources.shards.zips import index_zip, read_zipped
from ibot_jax.data.sources.splits import AUTO
from ibot_jax.data.sources.tfds import TfdsStream, open_tfds
from ibot_jax.errors import UserError
from ibot_jax.files.paths import require_reachable

IMAGENET_EXAMPLES = 1_281_167
SYNTHETIC_SIZE = (375, 500)  # height, width: about ImageNet's mean


# Sources that a pattern of files names: how the images of one are found, and read.
_OF_FILES = {
    "tar": (index_tar, read_member),
    "zip": (index_zip, read_zipped),
    "parquet": (index_parquet, read_row),
    "arrayrecord": (index_arrayrecord, read_record),
    "list": (),
}
_OF_COLUMNS = ("parquet", "arrayrecord")  # PATTERN#IMAGE,LABEL
KINDS = ("folder", *_OF_FILES, "hf", "tfds", "digits", "synthetic")


class Source(Protocol):
    """What random-access sources have in common.

    Reading has two halves, so that worker processes can do the expensive one: `locate` finds what
    describes an image (a path, its encoded bytes), and `fetch`, which can be pickled, gets it.

    Attributes:
      name: for people.
      fetch: turns what `locate` found into what `images.EncodedImage` opens: an encoded image, a
        part of a file, or pixels [H, W] or [H, W, C]; raises any exception if it is gone.
      labels: [len] int32; None where there are none, or where they lie beside the images (TFDS).
      class_names: by label, or None.
      num_classes: None where examples have no labels.
    """

    name: str
    fetch: Callable[[Any], bytes | np.ndarray | Excerpt]
    labels: np.ndarray | None
    class_names: list[str] | None
    num_classes: int | None

    def __len__(self) -> int: ...

    def locate(self, index: int) -> tuple[Any, int]:
        """Returns what `fetch` needs, and the label, -1 where there is none."""

    def describe(self, index: int) -> str:
        """Returns a name by which a person finds the example."""

    def relative_name(self, index: int) -> str:
        """Returns a name of the example that is the same wherever the data lies."""

    def stamps(self) -> Iterator[str]:
        """Yields texts that change when images do, as far as can be told without opening them."""


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str = "",
    max_per_class: int = 0,
    channels: int = 3,
    labelled: bool = True,
    key: str = "split",
) -> Source | TfdsStream:
    """Opens a source.

    Args:
      spec: "folder:PATH", "tar:PATTERN", "zip:PATTERN", "parquet:PATTERN", "arrayrecord:PATTERN",
        "list:PATTERN", "hf:NAME", "tfds:NAME", "digits", "synthetic" or
        "synthetic:NUMBER_OF_IMAGES".
      split: "train" or "test" of the digits; of a folder see `folders.FolderSource`, of a pattern
        `patterns.files_of`; of TFDS and `hf` also parts such as "train[:10%]"; of no meaning for
        synthetic images.
      data_dir: where TFDS keeps its data, and others what lies where in their files; "" for their
        defaults.
      max_per_class: keeps the first so many images of each class, by name; 0 keeps all.
      channels: that images will have, see `decoding.Decoding`.
      labelled: False takes every image of a folder, also those beside class folders, without
        labels.
      key: what `split` is called in errors.

    Raises:
      UserError: if there is no such source or split, its bucket cannot be reached, it is empty, or
        it cannot be so restricted.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"data.channels={channels} will not do; it is from 1 to {MAX_CHANNELS}")
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return FolderSource(rest, split, max_per_class=max_per_class, labelled=labelled, key=key)
    if kind in _OF_FILES and rest:
        pattern, _, columns = rest.partition("#") if kind in _OF_COLUMNS else (rest, "", "")
        files = files_of(pattern, split, spec=spec, key=key)
        if kind == "list":
            return _first_of_each_class(ListSource(spec, files), max_per_class)
        make, read = _OF_FILES[kind]
        if columns:
            make, read = (functools.partial(part, columns=columns) for part in (make, read))
        indexes = indexes_of(files, make, f"{kind}#{columns}", data_dir)
        if kind in _OF_COLUMNS:
            read = of_unchanged(read, files)
        source = ShardSource(spec, files, indexes, read)
        return _first_of_each_class(source, max_per_class)
    if kind == "hf" and rest:
        return _first_of_each_class(open_hf(spec, split, key=key), max_per_class)
    if kind == "digits" and not rest:
        return DigitsSource(split, max_per_class=max_per_class, key=key)
    if max_per_class and kind in ("tfds", "synthetic"):
        raise UserError(
            f"max_per_class={max_per_class} needs a source whose labels are known beforehand, "
            f'folders or digits, not {spec!r}; set it to 0 (TFDS splits can be cut: "train[:10%]")'
        )
    if kind == "tfds" and rest:
        require_reachable(data_dir)
        return open_tfds(rest, split, data_dir=data_dir, key=key)
    if kind == "synthetic" and (not rest or (rest.isdecimal() and int(rest))):
        return SyntheticSource(int(rest or IMAGENET_EXAMPLES), channels)
    raise UserError(
        f"data.source={spec!r} is unknown; use folder:PATH, tar:PATTERN, zip:PATTERN, "
        "parquet:PATTERN, arrayrecord:PATTERN, list:PATTERN, hf:NAME, tfds:NAME, digits, synthetic "
        "or synthetic:NUMBER_OF_IMAGES"
    )


def _first_of_each_class(source: Source, number: int) -> Source:
    """Returns the first so many images of each class; all, if the number is 0."""
    if not number:
        return source
    if source.labels is None:
        raise UserError(
            f"max_per_class={number} needs labels, and {source.name!r} has none; set it to 0"
        )
    return Subset(source, first_of_each(source.labels, number))


def splits_for_testing(spec: str, *, data_dir: str = "") -> list[str]:
    """Returns the splits of a source that are called like one to test on, the likeliest first.

    Args:
      spec: as of `open_source`.
      data_dir: where TFDS keeps its data; "" for its default.

    Raises:
      UserError: if there is no such source.
    """
    kind, _, rest = spec.partition(":")
    if kind == "folder":
        return folders.splits_for_testing(rest)
    if kind == "tfds":
        return tfds.splits_for_testing(rest, data_dir=data_dir)
    if kind == "hf":
        return hf.splits_for_testing(spec)
    if kind in _OF_FILES:
        return patterns.splits_for_testing(rest.partition("#")[0])
    return ["test"] if spec == "digits" else []


class NoTestSplit(UserError):
    """There is nothing to test on, and nobody has named a split that should be there."""


def open_test_split(
    spec: str,
    split: str,
    train: Source | TfdsStream,
    *,
    data_dir: str = "",
    max_per_class: int = 0,
    channels: int = 3,
    key: str = "split",
) -> tuple[Source | TfdsStream, str]:
    """Opens the split that a classifier of the training images is tested on.

    Args:
      spec: as of `open_source`.
      split: its name; "auto" finds one that is called so and labelled as the training images are.
      train: the training images, labelled.
      data_dir: as of `open_source`.
      max_per_class: as of `open_source`.
      channels: as of `open_source`.
      key: what `split` is called in errors.

    Returns:
      The source, and the name of the split.

    Raises:
      NoTestSplit: if the split is "auto", and there is none.
      UserError: if the split that is named cannot be opened, is labelled otherwise, or is a part of
        the training images.
    """

    def opened(name):
        options = dict(data_dir=data_dir, max_per_class=max_per_class, channels=channels)
        source = open_source(spec, name, **options, key=key)
        if reason := _unfit(source, train):
            raise UserError(f"{key}={name!r} of {spec!r} {reason}")
        return source, name

    if split != AUTO:
        return opened(split)
    reasons = []
    for name in splits_for_testing(spec, data_dir=data_dir):
        try:
            return opened(name)
        except UserError as error:
            reasons.append(str(error))
    raise NoTestSplit("; ".join(reasons) or f"{spec} has no split called test, val or validation")


def _unfit(test: Source | TfdsStream, train: Source | TfdsStream) -> str:
    """Returns why a classifier of the training images cannot be tested on a split, "" if it can."""
    inside = isinstance(train, FolderSource) and isinstance(test, FolderSource)
    if inside and test.root.startswith(f"{train.root}/"):
        return f"is one of the class folders of {train.name}, which are trained on"
    if test.num_classes is None:
        return "has no labels: it needs a folder for each class"
    if (test.num_classes, test.class_names) != (train.num_classes, train.class_names):
        odd = sorted(set(test.class_names or ()) ^ set(train.class_names or ()))
        only = f": only one of them has {odd[0]}" if odd else ""
        return f"has other classes than {train.name}{only}"
    return ""


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns what `sklearn.datasets.load_digits` does, from its file: the import takes seconds."""
    (folder,) = importlib.util.find_spec("sklearn").submodule_search_locations
    table = np.loadtxt(pathlib.Path(folder, "datasets/data/digits.csv.gz"), delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey pixels; every fifth of a class is test."""

    def __init__(self, split: str, *, max_per_class: int = 0, key: str = "split"):
        if split not in ("train", "test"):
            raise UserError(f"{key}={split!r} is not in data.source='digits'; use train or test")
        images, labels = _digits()
        chosen = []
        for label in range(10):
            rank = np.arange(np.sum(labels == label))
            of_class = np.flatnonzero(labels == label)[(rank % 5 == 4) == (split == "test")]
            chosen.append(of_class[: max_per_class or None])
        self._examples = np.sort(np.concatenate(chosen))
        self._pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.fetch = np.asarray  # what is located are the pixels
        self.name = f"digits, {split}"
        self.labels = labels[self._examples].astype(np.int32)
        self.class_names = [str(label) for label in range(10)]
        self.num_classes = 10

    def __len__(self) -> int:
        return len(self._examples)

    def locate(self, index: int) -> tuple[np.ndarray, int]:
        return self._pixels[self._examples[index]], int(self.labels[index])

    def describe(self, index: int) -> str:
        return f"digit {self._examples[index]}"

    relative_name = describe

    def stamps(self) -> Iterator[str]:
        yield from (self.name, str(len(self)))


class SyntheticSource:
    """Uniform noise of ImageNet's usual size and no labels: an input without disk and decoder."""

    labels = class_names = num_classes = None

    def __init__(self, num_examples: int, channels: int):
        self._num_examples = num_examples
        self.fetch = functools.partial(make_noise, channels=channels)
        self.name = f"synthetic, {num_examples} images"

    def __len__(self) -> int:
        return self._num_examples

    def locate(self, index: int) -> tuple[int, int]:
        return index, -1

    def describe(self, index: int) -> str:
        return f"synthetic image {index}"

    relative_name = describe

    def stamps(self) -> Iterator[str]:
        yield self.name


class Subset:
    """Some of the images of a source.

    Args:
      source: with random access.
      indices: of the images, in the order that they have here.
    """

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source = source
        self._indices = indices
        self.name = source.name
        self.fetch = source.fetch
        self.labels = None if source.labels is None else source.labels[np.asarray(indices)]
        self.class_names = source.class_names
        self.num_classes = source.num_classes

    def __len__(self) -> int:
        return len(self._indices)

    def locate(self, index: int) -> tuple[Any, int]:
        return self._source.locate(int(self._indices[index]))

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._indices[index]))

    def relative_name(self, index: int) -> str:
        return self._source.relative_name(int(self._indices[index]))

    def stamps(self) -> Iterator[str]:
        yield from self._source.stamps()
        yield " ".join(map(str, self._indices))


def make_noise(index: int, channels: int) -> np.ndarray:
    """Returns image number `index` of the synthetic source, [H, W] or [H, W, channels] uint8."""
    shape = SYNTHETIC_SIZE if channels == 1 else (*SYNTHETIC_SIZE, channels)
    pixels = np.random.default_rng(index).bytes(math.prod(shape))
    return np.frombuffer(pixels, np.uint8).reshape(shape)
