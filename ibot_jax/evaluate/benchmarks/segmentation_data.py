"""Images and the classes of their pixels, in the layouts of ADE20K and PASCAL VOC."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.same_images import require_same_files
from ibot_jax.data.sources.shared_images import find_shared_files
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.image_files import (
    list_images,
    read_image,
    read_labels,
    require_folder,
    share_batches,
    to_square,
)
from ibot_jax.evaluate.common.opening import warn_of_shared
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.shares import Rows

IGNORED = 255  # the label of pixels that do not count


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a split, and what their annotations mean.

    Attributes:
      images: files.
      annotations: the file of each image.
      num_classes: C.
      first: the value of class 0 in the annotations.
    """

    images: list[epath.Path]
    annotations: list[epath.Path]
    num_classes: int
    first: int

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image [H, W, channels] uint8 and its classes, see `read_truth`.

        Raises:
          UserError: if one cannot be read, or they are not of one size.
        """
        pixels, labels = read_image(self.images[index], decoding), self.read_truth(index)
        if pixels.shape[:2] != labels.shape:
            raise UserError(
                f"{self.images[index]} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but its "
                f"annotation {labels.shape[0]}x{labels.shape[1]}"
            )
        return pixels, labels

    def read_truth(self, index: int) -> np.ndarray:
        """Returns the classes of an image's pixels, [H, W] uint8, `IGNORED` where there is none.

        Raises:
          UserError: if the annotation cannot be read or holds other values.
        """
        raw = read_labels(self.annotations[index])
        labels = raw - np.uint8(self.first)  # ADE20K's 0 becomes 255
        odd = labels[(labels >= self.num_classes) & (labels != IGNORED)]
        if len(odd):
            raise UserError(
                f"{self.annotations[index]} holds the value {int(odd[0]) + self.first}; there are "
                f"{self.num_classes} classes from {self.first} on (wrong --layout?)"
            )
        return labels


def open_splits(args: argparse.Namespace) -> tuple[Split, Split, int]:
    """Finds what --layout and --data name, see `find_splits`; warns where the splits share images.

    Returns:
      Both splits, and how many test images are training images, too.

    Raises:
      UserError: if something is absent, or not the same on all processes.
    """
    with same_end():
        train, test = find_splits(args.layout, absolute_path(args.data))
        shared = find_shared_files(*(list(map(str, split.images)) for split in (train, test)))
    for split in (train, test):
        require_same_files([*split.images, *split.annotations], f"--data={args.data}")
    named = f"--data={args.data} to test on"
    warn_of_shared(shared, named, "the training images", "mend the lists")
    return train, test, shared.count


def find_splits(layout: str, data: epath.Path) -> tuple[Split, Split]:
    """Finds the images to train with and those to measure, with their annotations.

    Args:
      layout: "ade20k" (ADEChallengeData2016) or "voc" (VOCdevkit/VOC2012).
      data: the folder of that name.

    Raises:
      UserError: if something is absent.
    """
    find = _find_ade20k if layout == "ade20k" else _find_voc
    train, test = find(require_folder(data))
    return train, test


@dataclasses.dataclass(frozen=True)
class Squares:
    """How images are read.

    Attributes:
      size: images and annotations become squares of so many pixels, S.
      decoding: how files become pixels.
      rows: of a batch of B that this process makes, b of them.
    """

    size: int
    decoding: Decoding
    rows: Rows

    def number(self, split: Split) -> int:
        """Returns how many batches a split makes."""
        return -(-len(split) // self.rows.batch_size)

    def batches(self, split: Split, order: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's share of batches of images and their classes.

        Args:
          split: what is read.
          order: the indices of the images, the same on all processes.

        Yields:
          Dicts of `images` [b, S, S, C] uint8 and `labels` [b, S, S] uint8; the last batch is
          filled up with images whose pixels are all `IGNORED`.
        """
        square = (self.size, self.size)
        pixels = np.zeros((*square, self.decoding.channels), np.uint8)
        blank = pixels, np.full(square, IGNORED, np.uint8)
        read = functools.partial(self._read, split)
        for (images, labels), _ in share_batches(read, order, blank, self.rows):
            yield {"images": images, "labels": labels}

    def _read(self, split: Split, index: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = split.read(index, self.decoding)
        return to_square(pixels, self.size, self.decoding), nearest(labels, self.size, self.size)


def nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes labels [H, W] uint8 to [height, width], each pixel that of the nearest."""
    resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _find_ade20k(data: epath.Path) -> Iterator[Split]:
    for part in ("training", "validation"):
        images = list_images(data / "images" / part)
        yield _split(images, data / "annotations" / part, num_classes=150, first=1)


def _find_voc(data: epath.Path) -> Iterator[Split]:
    for part in ("train", "val"):
        listing = data / "ImageSets" / "Segmentation" / f"{part}.txt"
        if not listing.exists():
            raise UserError(f"{listing} is absent: the names of the images")
        names = listing.read_text().split()
        if not names:
            raise UserError(f"{listing} names no image")
        images = [data / "JPEGImages" / f"{name}.jpg" for name in names]
        _require(images, str(listing))
        yield _split(images, data / "SegmentationClass", num_classes=21, first=0)


def _split(images: list[epath.Path], folder: epath.Path, **meaning: int) -> Split:
    annotations = [folder / f"{image.stem}.png" for image in images]
    _require(annotations, str(images[0].parent))
    return Split(images, annotations, **meaning)


def _require(files: list[epath.Path], because: str) -> None:
    """Finds files that are absent before any is read; all are in one folder."""
    there = {path.name for path in require_folder(files[0].parent).iterdir()}
    absent = [path for path in files if path.name not in there]
    if absent:
        raise UserError(f"{absent[0]} is absent, one of {len(absent)} that {because} asks for")
