"""A function for each set, which reads its lists and labels as they come out of its archives.

Each takes the set's folder and returns a `Lists`. A file that is absent is a FileNotFoundError; one
that does not hold what it should, a ValueError or LookupError: `sets.read` tells both.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.io
from etils import epath

from ibot_jax.data.sources.listing import EXTENSIONS
from ibot_jax.evaluate.benchmarks import safe_pickle

CALTECH_IMAGES = 30  # of each class to train with, as Kornblith et al. (arXiv 1805.08974) have it

Part = tuple[Sequence[epath.Path] | np.ndarray, Sequence]  # images, and the class of each


@dataclasses.dataclass(frozen=True)
class Lists:
    """What the files of a set say.

    Attributes:
      class_names: in the order of their numbers.
      train: images and their classes, by name or number.
      test: likewise.
      val: likewise, of a set that says which training images settings are chosen on.
    """

    class_names: Sequence[str]
    train: Part
    test: Part
    val: Part | None = None


def food101(root: epath.Path) -> Lists:
    """meta/train.txt: lines such as apple_pie/1005649, an image in images/ without its ending."""

    def part(name):
        lines = _lines(root / f"meta/{name}.txt")
        return [root / f"images/{line}.jpg" for line in lines], _folders(lines)

    return Lists(_lines(root / "meta/classes.txt"), part("train"), part("test"))


def cifar10(root: epath.Path) -> Lists:
    """Five pickles of training images and one of test images."""
    train = [_pixels(root / f"data_batch_{number}", "labels") for number in range(1, 6)]
    names = _unpickle(root / "batches.meta")["label_names"]
    images, labels = map(np.concatenate, zip(*train, strict=True))
    return Lists(names, (images, labels), _pixels(root / "test_batch", "labels"))


def cifar100(root: epath.Path) -> Lists:
    """A pickle of training images and one of test images; the fine labels count."""
    names = _unpickle(root / "meta")["fine_label_names"]
    train, test = (_pixels(root / name, "fine_labels") for name in ("train", "test"))
    return Lists(names, train, test)


def sun397(root: epath.Path) -> Lists:
    """The first of its ten partitions: lines such as /a/abbey/sun_aaalbzqrimafwbiv.jpg."""

    def part(name):
        lines = [line.lstrip("/") for line in _lines(root / name)]
        return [root / line for line in lines], _folders(lines)

    names = [line.lstrip("/") for line in _lines(root / "ClassName.txt")]
    return Lists(names, part("Training_01.txt"), part("Testing_01.txt"))


def cars(root: epath.Path) -> Lists:
    """Annotations in MATLAB's format; classes count from 1."""

    def part(file, folder):
        found = np.atleast_1d(_mat(root / file)["annotations"])
        images = [root / folder / str(name) for name in found["fname"]]
        return images, found["class"].astype(int) - 1

    return Lists(
        [str(name) for name in _mat(root / "devkit/cars_meta.mat")["class_names"]],
        part("devkit/cars_train_annos.mat", "cars_train"),
        part("cars_test_annos_withlabels.mat", "cars_test"),
    )


def aircraft(root: epath.Path) -> Lists:
    """data/images_variant_train.txt: lines of an image and its variant."""

    def part(name):
        lines = _lines(root / f"data/images_variant_{name}.txt")
        images, variants = zip(*(line.split(maxsplit=1) for line in lines), strict=True)
        return [root / f"data/images/{image}.jpg" for image in images], variants

    names = _lines(root / "data/variants.txt")
    return Lists(names, part("train"), part("test"), part("val"))


def voc2007(root: epath.Path) -> Lists:
    """ImageSets/Main/dog_train.txt: lines of an image and 1, -1, or 0 where it is difficult."""
    lists = root / "ImageSets/Main"
    names = sorted(path.name.removesuffix("_train.txt") for path in lists.glob("*_train.txt"))
    if not names:
        raise FileNotFoundError(2, "is absent", str(lists / "aeroplane_train.txt"))

    def part(split):
        images = _lines(lists / f"{split}.txt")
        columns = []
        for name in names:
            shown = dict(line.split() for line in _lines(lists / f"{name}_{split}.txt"))
            columns.append([{"1": 1, "-1": 0, "0": -1}[shown[image]] for image in images])
        paths = [root / f"JPEGImages/{image}.jpg" for image in images]
        return paths, np.array(columns, np.int8).T

    return Lists(names, part("train"), part("test"), part("val"))


def dtd(root: epath.Path) -> Lists:
    """The first of its ten splits; labels/train1.txt: lines such as banded/banded_0002.jpg."""

    def part(name):
        lines = _lines(root / f"labels/{name}1.txt")
        return [root / f"images/{line}" for line in lines], _folders(lines)

    train, test, val = (part(name) for name in ("train", "test", "val"))
    return Lists(sorted(set(train[1])), train, test, val)


def pets(root: epath.Path) -> Lists:
    """annotations/trainval.txt: lines such as Abyssinian_100 1 1 1, the breed in the name."""

    def part(name):
        lines = [line for line in _lines(root / f"annotations/{name}.txt") if line[0] != "#"]
        images = [line.split()[0] for line in lines]
        breeds = [image.rpartition("_")[0] for image in images]
        return [root / f"images/{image}.jpg" for image in images], breeds

    train, test = part("trainval"), part("test")
    return Lists(sorted(set(train[1])), train, test)


def caltech101(root: epath.Path, seed: int) -> Lists:
    """Folders of classes, the background among them; 30 images of each to train with, by a seed."""
    folder = root / "101_ObjectCategories"
    train, test = ([], []), ([], [])
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for label, of_class in enumerate(classes):
        images = sorted(p for p in of_class.iterdir() if p.suffix[1:].lower() in EXTENSIONS)
        if len(images) <= CALTECH_IMAGES:
            raise ValueError(f"{of_class.name} has {len(images)} images")
        order = np.random.default_rng([seed, label]).permutation(len(images))
        for part, numbers in ((train, order[:CALTECH_IMAGES]), (test, order[CALTECH_IMAGES:])):
            part[0].extend(images[number] for number in sorted(numbers))
            part[1].extend([label] * len(numbers))
    return Lists([path.name for path in classes], train, test)


def flowers102(root: epath.Path) -> Lists:
    """Numbers of images, and their classes, in MATLAB's format; both count from 1."""
    splits, labels = _mat(root / "setid.mat"), _mat(root / "imagelabels.mat")["labels"]

    def part(name):
        numbers = np.atleast_1d(splits[name])
        images = [root / f"jpg/image_{number:05}.jpg" for number in numbers]
        return images, labels[numbers - 1].astype(int) - 1

    names = [str(number) for number in range(1, labels.max() + 1)]  # it has no others
    return Lists(names, part("trnid"), part("tstid"), part("valid"))


def cub200(root: epath.Path) -> Lists:
    """Lists of a number and what the image of this number has."""
    columns = [
        dict(line.split() for line in _lines(root / name))
        for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    ]
    files, classes, training = columns
    names = [line.split()[1] for line in _lines(root / "classes.txt")]

    def part(wanted):
        numbers = [number for number in files if training[number] == wanted]
        labels = [int(classes[number]) - 1 for number in numbers]
        return [root / "images" / files[number] for number in numbers], labels

    return Lists(names, part("1"), part("0"))


def _lines(path: epath.Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _folders(lines: Sequence[str]) -> list[str]:
    return [line.rpartition("/")[0] for line in lines]


def _unpickle(path: epath.Path) -> dict[str, Any]:
    return safe_pickle.loads(path.read_bytes(), str(path))


def _pixels(path: epath.Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [M, 32, 32, 3] uint8 and labels [M] of a pickle of CIFAR."""
    content = _unpickle(path)
    pixels = content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pixels, np.array(content[labels])


def _mat(path: epath.Path) -> dict[str, Any]:
    content = io.BytesIO(path.read_bytes())
    try:
        return scipy.io.loadmat(content, squeeze_me=True)
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(f"{path.name} is no file of MATLAB: {error}") from error
