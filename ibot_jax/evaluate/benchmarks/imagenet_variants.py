"""The folders of ImageNet-A, -R, -Sketch, -V2, -C and -9, and the training split's classes."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from ibot_jax.data.sources.folders import FolderSource
from ibot_jax.data.sources.opening import Source
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.corruptions import ALEXNET_ERRORS, SEVERITIES
from ibot_jax.evaluate.benchmarks.image_files import require_folder
from ibot_jax.files.paths import absolute_path

_GAP = ("mixed_same", "mixed_rand")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A folder of images with other classes than the training split's.

    Attributes:
      source: the images, labelled.
      translation: [C] int, the folder's label for each class of the training split, -1 for none.
    """

    source: Source
    translation: np.ndarray


def open_by_name(folder: str, flag: str, train_names: Sequence[str], most: int = 0) -> Variant:
    """Opens FOLDER/CLASS/*, whose classes are some of the training split's, or all.

    Args:
      folder: with the class folders.
      flag: that named it, for errors.
      train_names: the training split's classes.
      most: images of each class, by name; 0 for all.

    Raises:
      UserError: if it has other classes.
    """
    source = _open(folder, flag, most)
    unknown = sorted(set(source.class_names) - set(train_names))
    if unknown:
        raise UserError(
            f"{flag}: {folder} has the class {unknown[0]}, which the training split lacks; folders "
            "must be named alike (WNIDs)"
        )
    labels = {name: label for label, name in enumerate(source.class_names)}
    return Variant(source, np.array([labels.get(name, -1) for name in train_names]))


def open_imagenet_v2(folder: str, num_classes: int, most: int = 0) -> Variant:
    """Opens FOLDER/NUMBER/*, whose classes are numbers from 0 on.

    Args:
      folder: such as imagenetv2-matched-frequency-format-val.
      num_classes: of the training split, in alphabetic order.
      most: images of each class, by name; 0 for all.

    Raises:
      UserError: if it has other classes.
    """
    source = _open(folder, "--imagenet-v2", most)
    translation = np.full(num_classes, -1)
    for place, name in enumerate(source.class_names):
        if not name.isdecimal() or int(name) >= num_classes:
            raise UserError(
                f"--imagenet-v2: {folder} has the class {name}; they are numbers from 0 to "
                f"{num_classes - 1}, in the order of the training split's folders"
            )
        translation[int(name)] = place
    return Variant(source, translation)


def find_imagenet_c(folder: str) -> dict[str, list[str]]:
    """Finds FOLDER/CORRUPTION/SEVERITY for all corruptions, each by severity.

    They are not opened: all together they hold millions of images.

    Raises:
      UserError: if a corruption or severity is absent, for mCE needs all of them.
    """
    root = require_folder(absolute_path(folder))
    found = {name: [root / name / str(level) for level in SEVERITIES] for name in ALEXNET_ERRORS}
    for folders in found.values():
        for path in folders:
            if not path.is_dir():
                raise UserError(
                    f"--imagenet-c={folder} lacks {path.parent.name}/{path.name}; mCE needs all of "
                    f"{', '.join(ALEXNET_ERRORS)}, each with severities 1 to 5"
                )
    return {name: [str(path) for path in folders] for name, folders in found.items()}


def open_imagenet_9(
    folder: str, train_names: Sequence[str], map_file: str | None, most: int = 0
) -> dict[str, Variant]:
    """Opens FOLDER/VARIANT/val/SUPERCLASS/*, for all variants, by name.

    Args:
      folder: with at least mixed_same and mixed_rand.
      train_names: the training split's classes.
      map_file: the benchmark's in_to_in9.json, {"0": -1, "1": 8, ...}: the superclass of each class
        in alphabetic order; not needed if the superclasses are the training split's classes.
      most: images of each superclass, by name; 0 for all.

    Raises:
      UserError: if something is absent or does not fit.
    """
    root = require_folder(absolute_path(folder))
    names = sorted(path.name for path in root.iterdir() if (path / "val").is_dir())
    for name in _GAP:
        if name not in names:
            raise UserError(f"--imagenet-9={folder} lacks {name}/val; the gap needs both {_GAP}")
    variants = {}
    for name in names:
        source = _open(str(root / name / "val"), "--imagenet-9", most)
        if source.class_names == list(train_names):
            translation = np.arange(len(train_names))
        else:
            translation = _read_map(map_file, len(train_names), source.num_classes)
        variants[name] = Variant(source, translation)
    return variants


def background_gap(top1: dict[str, float]) -> float:
    """Returns how much accuracy is lost to backgrounds of other classes, in points."""
    same, rand = (top1[name] for name in _GAP)
    return same - rand


def _open(folder: str, flag: str, most: int) -> FolderSource:
    try:
        source = FolderSource(folder, "", max_per_class=most)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
    if source.class_names is None:
        raise UserError(f"{flag}: {folder} holds images without a folder for each class")
    return source


def _read_map(map_file: str | None, num_train: int, num_superclasses: int) -> np.ndarray:
    if map_file is None:
        raise UserError(
            "--imagenet-9 has other classes than the training split; give the benchmark's "
            "in_to_in9.json by --in9-map"
        )
    try:
        read = json.loads(absolute_path(map_file).read_text())
        found = np.array([int(read[str(index)]) for index in range(len(read) or 1)])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f'--in9-map={map_file} is no map {{"0": -1, "1": 8, ...}} ({error!r})'
        ) from error
    if len(found) != num_train or not -1 <= found.min() <= found.max() < num_superclasses:
        raise UserError(
            f"--in9-map={map_file} maps {len(found)} classes to {found.max() + 1}; the training "
            f"split has {num_train}, and --imagenet-9 has {num_superclasses}"
        )
    return found
