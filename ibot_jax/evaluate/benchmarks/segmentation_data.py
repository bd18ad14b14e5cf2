"""Images and the classes of their pixels, in the layouts of ADE20K, PASCAL VOC and Cityscapes."""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator

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
)
from ibot_jax.evaluate.common.opening import warn_of_shared
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end

IGNORED = 255  # the label of pixels that do not count


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set lies on disk, and what the values in its annotations mean.

    Attributes:
      find: (the folder of the data) -> images and annotations to train with, and those to measure.
      files: those that are expected, and where they are to be had; for messages.
      classes: the value of each class, in their order.
      void: values of pixels that do not count.
    """

    find: Callable[[epath.Path], Iterator["Files"]]
    files: str
    classes: tuple[int, ...]
    void: tuple[int, ...]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The class of each value, [256] int16: `IGNORED` of what does not count, else -1."""
        table = np.full(256, -1, np.int16)
        table[list(self.void)] = IGNORED
        table[list(self.classes)] = range(len(self.classes))
        return table


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a split, and what their annotations mean.

    Attributes:
      images: files.
      annotations: the file of each image.
      layout: of the data.
    """

    images: list[epath.Path]
    annotations: list[epath.Path]
    layout: Layout

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are, C."""
        return len(self.layout.classes)

    def read_truth(self, index: int) -> np.ndarray:
        """Returns the classes of an image's pixels, [H, W] uint8, `IGNORED` where there is none.

        Raises:
          UserError: if the annotation cannot be read or holds other values.
        """
        raw = read_labels(self.annotations[index])
        labels = self.layout.labels[raw]
        if (labels < 0).any():
            classes = self.layout.classes
            raise UserError(
                f"{self.annotations[index]} holds the value {raw[labels < 0][0]}, which is none of "
                f"the {len(classes)} classes from {classes[0]} to {classes[-1]} (wrong --layout?)"
            )
        return labels.astype(np.uint8)

    def read(self, index: int, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image, [H, W, C] uint8, and the classes of its pixels, see `read_truth`.

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
      layout: one of `LAYOUTS`.
      data: the folder of the data.

    Raises:
      UserError: if something is absent.
    """
    described = LAYOUTS[layout]
    try:
        found = described.find(require_folder(data))
        train, test = (Split(*files, described) for files in found)
    except UserError as error:
        raise UserError(f"{error}; --layout={layout} is of {described.files}") from error
    return train, test


def nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes labels [H, W] uint8 to [height, width], each pixel that of the nearest."""
    resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized)


Files = tuple[list[epath.Path], list[epath.Path]]  # images, and the annotation of each


def _find_ade20k(data: epath.Path) -> Iterator[Files]:
    for part in ("training", "validation"):
        images = list_images(data / "images" / part)
        yield images, _annotations(images, data / "annotations" / part, "", ".png")


def _find_voc(data: epath.Path) -> Iterator[Files]:
    for part in ("train", "val"):
        yield _listed(data, part, "SegmentationClass")


def _find_augmented_voc(data: epath.Path) -> Iterator[Files]:
    yield _listed(data, "train_aug", "SegmentationClassAug")
    yield _listed(data, "val", "SegmentationClass")


def _listed(data: epath.Path, part: str, folder: str) -> Files:
    """Returns the files of a list of names, or of lines that start with the path of an image."""
    listing = data / "ImageSets" / "Segmentation" / f"{part}.txt"
    if not listing.exists():
        raise UserError(f"{listing} is absent: the names of the images")
    lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{listing} names no image")
    names = [line[0].rpartition("/")[2].removesuffix(".jpg") for line in lines]
    images = [data / "JPEGImages" / f"{name}.jpg" for name in names]
    _require(images, str(listing))
    return images, _annotations(images, data / folder, "", ".png")


def _find_cityscapes(data: epath.Path) -> Iterator[Files]:
    ends = "_leftImg8bit", "_gtFine_labelIds.png"
    for part in ("train", "val"):
        both: Files = [], []
        for city in sorted(require_folder(data / "leftImg8bit" / part).iterdir()):
            if city.is_dir() and not city.name.startswith("."):
                images = list_images(city)
                both[0].extend(images)
                both[1].extend(_annotations(images, data / "gtFine" / part / city.name, *ends))
        if not both[0]:
            raise UserError(f"{data / 'leftImg8bit' / part} holds no folder of a city")
        yield both


def _annotations(
    images: list[epath.Path], folder: epath.Path, end: str, instead: str
) -> list[epath.Path]:
    """Returns the files in a folder that are called as the images are, but for their ends."""
    annotations = [folder / f"{image.stem.removesuffix(end)}{instead}" for image in images]
    _require(annotations, str(images[0].parent))
    return annotations


def _require(files: list[epath.Path], because: str) -> None:
    """Finds files that are absent before any is read; all are in one folder."""
    there = {path.name for path in require_folder(files[0].parent).iterdir()}
    absent = [path for path in files if path.name not in there]
    if absent:
        raise UserError(f"{absent[0]} is absent, one of {len(absent)} that {because} asks for")


_VOC = "(VOCdevkit/VOC2012, host.robots.ox.ac.uk/pascal/VOC/voc2012)"
_SBD = "(SBD's as masks; home.bharathh.info/pubs/codes/SBD)"
_OF_CITYSCAPES = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # whose trainId is not 255

LAYOUTS = {
    "ade20k": Layout(
        _find_ade20k,
        "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png "
        "(ADEChallengeData2016, sceneparsing.csail.mit.edu)",
        classes=tuple(range(1, 151)),
        void=(0,),
    ),
    "voc": Layout(
        _find_voc,
        "JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt "
        f"{_VOC}",
        classes=tuple(range(21)),
        void=(IGNORED,),
    ),
    "voc-aug": Layout(
        _find_augmented_voc,
        "JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train_aug,val}.txt "
        f"{_VOC} and SegmentationClassAug/*.png {_SBD}",
        classes=tuple(range(21)),
        void=(IGNORED,),
    ),
    "cityscapes": Layout(
        _find_cityscapes,
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and "
        "gtFine/{train,val}/CITY/*_gtFine_labelIds.png (www.cityscapes-dataset.com)",
        classes=_OF_CITYSCAPES,
        void=(*sorted(set(range(34)) - set(_OF_CITYSCAPES)), IGNORED),
    ),
}
