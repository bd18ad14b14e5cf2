"""The sets by name: where each lies, how it is read, by which measure it is published."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.examples import Examples, require_files
from ibot_jax.evaluate.benchmarks.finegrained import readers


@dataclasses.dataclass(frozen=True)
class Described:
    """What is known of a set before it is read.

    Attributes:
      folder: where it lies below the folder of all sets.
      files: that are expected in it, for errors.
      page: where it is to be had.
      measure: by which it is published, a name of `measures.classification.MEASURES`.
      read: its lists and labels.
    """

    folder: str
    files: str
    page: str
    measure: str
    read: Callable[..., readers.Lists]


SETS = {
    "food101": Described(
        "food-101",
        "meta/classes.txt, meta/train.txt, meta/test.txt, images/CLASS/*.jpg",
        "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "top1",
        readers.food101,
    ),
    "cifar10": Described(
        "cifar-10-batches-py",
        "data_batch_1 to data_batch_5, test_batch, batches.meta",
        "www.cs.toronto.edu/~kriz/cifar.html",
        "top1",
        readers.cifar10,
    ),
    "cifar100": Described(
        "cifar-100-python",
        "train, test, meta",
        "www.cs.toronto.edu/~kriz/cifar.html",
        "top1",
        readers.cifar100,
    ),
    "sun397": Described(
        "SUN397",
        "ClassName.txt, Training_01.txt, Testing_01.txt, a/abbey/*.jpg",
        "vision.princeton.edu/projects/2010/SUN",
        "top1",
        readers.sun397,
    ),
    "cars": Described(
        "stanford_cars",
        "devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat, "
        "cars_train/*.jpg, cars_test/*.jpg",
        "ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "top1",
        readers.cars,
    ),
    "aircraft": Described(
        "fgvc-aircraft-2013b",
        "data/variants.txt, data/images_variant_{train,val,test}.txt, data/images/*.jpg",
        "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        "mean_class",
        readers.aircraft,
    ),
    "voc2007": Described(
        "VOCdevkit/VOC2007",
        "ImageSets/Main/{train,val,test}.txt, ImageSets/Main/CLASS_{train,val,test}.txt, "
        "JPEGImages/*.jpg",
        "host.robots.ox.ac.uk/pascal/VOC/voc2007",
        "map11",
        readers.voc2007,
    ),
    "dtd": Described(
        "dtd",
        "labels/train1.txt, labels/val1.txt, labels/test1.txt, images/CLASS/*.jpg",
        "www.robots.ox.ac.uk/~vgg/data/dtd",
        "top1",
        readers.dtd,
    ),
    "pets": Described(
        "oxford-iiit-pet",
        "annotations/trainval.txt, annotations/test.txt, images/*.jpg",
        "www.robots.ox.ac.uk/~vgg/data/pets",
        "mean_class",
        readers.pets,
    ),
    "caltech101": Described(
        "caltech-101",
        "101_ObjectCategories/CLASS/*.jpg, more than 30 of each class",
        "data.caltech.edu/records/mzrjq-6wc02",
        "mean_class",
        readers.caltech101,
    ),
    "flowers102": Described(
        "flowers-102",
        "setid.mat, imagelabels.mat, jpg/image_00001.jpg",
        "www.robots.ox.ac.uk/~vgg/data/flowers/102",
        "mean_class",
        readers.flowers102,
    ),
    "cub200": Described(
        "CUB_200_2011",
        "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/CLASS/*.jpg",
        "www.vision.caltech.edu/datasets/cub_200_2011",
        "top1",
        readers.cub200,
    ),
}


@dataclasses.dataclass(frozen=True)
class FineGrained:
    """A set.

    Attributes:
      train: all images that a classifier may be trained with.
      held_out: [M] bool, those of them on which its settings are chosen.
      test: the others.
    """

    train: Examples
    held_out: np.ndarray
    test: Examples


def find(data: epath.Path, names: Sequence[str]) -> list[str]:
    """Returns which of the sets have their folder."""
    return [name for name in names if (data / SETS[name].folder).is_dir()]


def read(data: epath.Path, name: str, seed: int, most: int = 0) -> FineGrained:
    """Reads the lists of a set, and makes sure that its images are there.

    Args:
      data: the folder of all sets.
      name: of the set.
      seed: of what the set does not say: which tenth of the training images settings are chosen on
        where no split is for that, and Caltech-101's split.
      most: images of each class and split that are kept; 0 keeps all.

    Raises:
      UserError: if a file is absent, or does not hold what it should.
    """
    described = SETS[name]
    root = data / described.folder
    remedy = f"{name} is {root} with {described.files}, as its archives have it: {described.page}"
    try:
        lists = described.read(root, seed) if name == "caltech101" else described.read(root)
        parts = {
            part: _examples(f"{name} {part}", root, getattr(lists, part), lists.class_names)
            for part in ("train", "val", "test")
            if getattr(lists, part) is not None
        }
        _require_classes(parts["train"], parts.get("val"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or root} is absent; {remedy}") from error
    except (ValueError, LookupError, TypeError, OSError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise UserError(f"{root} does not hold what it should ({reason}); {remedy}") from error
    if most:
        parts = {part: examples.first_of_each(most) for part, examples in parts.items()}
    train, test = parts["train"], parts["test"]
    if "val" in parts:
        held_out = np.arange(len(train) + len(parts["val"])) >= len(train)
        train = _joined(train, parts["val"], root)
    else:
        held_out = np.zeros(len(train), bool)
        chosen = np.random.default_rng(seed).permutation(len(train))[: max(len(train) // 10, 1)]
        held_out[chosen] = True
    return FineGrained(train, held_out, test)


def _require_classes(train: Examples, val: Examples | None) -> None:
    """Raises a ValueError if a class has no image to train with."""
    shown = np.concatenate([part.shown() for part in (train, val) if part is not None])
    for name, count in zip(train.class_names, shown.sum(axis=0), strict=True):
        if not count:
            raise ValueError(f"no training image shows the class {name!r}")


def _examples(name: str, root: epath.Path, part: readers.Part, class_names: Sequence[str]):
    """Makes a source of images and their classes, by name or number; raises a ValueError."""
    images, classes = part
    if not len(images):
        raise ValueError(f"{name} lists no image")
    if not isinstance(images, np.ndarray):
        require_files(images)
    if np.ndim(classes) == 2:
        return Examples(name, root, images, classes, class_names)
    number = {given: label for label, given in enumerate(class_names)}
    number |= {label: label for label in range(len(class_names))}
    odd = [given for given in classes if given not in number]
    if odd:
        raise ValueError(
            f"{os.fspath(root)} lists the class {odd[0]!r}, which is none of its "
            f"{len(class_names)} classes"
        )
    labels = np.array([number[given] for given in classes], np.int32)
    return Examples(name, root, images, labels, class_names)


def _joined(first: Examples, second: Examples, root: epath.Path) -> Examples:
    images = [*first.images, *second.images]
    targets = np.concatenate([first.targets, second.targets])
    return Examples(first.name, root, images, targets, first.class_names)
