"""Parts of the labels: a share or a number of images of each class, or those that a file lists."""

import collections
from collections.abc import Callable, Sequence

import numpy as np

from ibot_jax.data.sources.opening import Source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path


def choose(
    which: str, labels: np.ndarray, places: np.ndarray, source: Source | TfdsStream, seed: int
) -> np.ndarray:
    """Returns which images of a split are labelled.

    Args:
      which: "all"; a share of each class, "10%", at least one image; or the path of a text file,
        which names an image a line (as SimCLR's lists of ImageNet's 1 % and 10 % do), with the
        folders that it lies in where several have its name.
      labels: [M] of the images.
      places: [M] of the images in the split.
      source: the split.
      seed: of the choice; it does not depend on anything else but the labels.

    Returns:
      [S] int64, in order, from 0 to M - 1.

    Raises:
      UserError: if it is none of the three, or the file lists what is not there or not unique.
    """
    if which == "all":
        return np.arange(len(labels))
    if which.endswith("%"):
        return _stratified(_share(which), labels, seed)
    return _listed(which, places, source)


def _share(text: str) -> float:
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"--labels={text} is no share above 0% and up to 100%")
    return share


def few_of_each(number: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns so many images of each class; fewer of the same seed are part of more.

    Args:
      number: of images of each class.
      labels: [M] of the images; of label -1 none is chosen.
      seed: of the choice.

    Returns:
      [S] int64, in order, from 0 to M - 1.

    Raises:
      ValueError: if a class has fewer.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if counts.min(initial=number) < number:
        raise ValueError(f"class {classes[counts.argmin()]} has {counts.min()} images only")
    return _of_each(lambda _: number, labels, seed)


def _stratified(share: float, labels: np.ndarray, seed: int) -> np.ndarray:
    return _of_each(lambda count: max(1, round(share * count)), labels, seed)


def _of_each(number: Callable[[int], int], labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the first images of each class in an order by the seed, `number(count)` of them."""
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        of_class = np.flatnonzero(labels == label)
        rng = np.random.default_rng([seed, int(label)])
        chosen.append(rng.permutation(of_class)[: number(len(of_class))])
    return np.sort(np.concatenate(chosen))


def _listed(path: str, places: np.ndarray, source: Source | TfdsStream) -> np.ndarray:
    if isinstance(source, TfdsStream):
        raise UserError(
            f"--labels={path} needs images with names: folders, or TFDS data prepared as "
            "array_record"
        )
    try:
        lines = absolute_path(path).read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(
            f"--labels={path} is neither all nor a share such as 10%, and no file that can be read "
            f"({reason})"
        ) from error
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise UserError(f"--labels={path} lists no image; give the list of these images")
    by_name = collections.defaultdict(list)
    for number, place in enumerate(places):
        image = source.describe(int(place))
        by_name[_file_name(image)].append((number, image))
    classes = set(source.class_names or ())
    chosen = set()
    for line in wanted:
        numbers = _meant(line, by_name[_file_name(line)], classes)
        if len(numbers) != 1:
            lacks = f"which {source.name} lacks; give the list of these images"
            several = f"which {len(numbers)} images of {source.name} are called; add their folders"
            raise UserError(f"--labels={path} lists {line}, {several if numbers else lacks}")
        chosen.update(numbers)
    return np.array(sorted(chosen))


def _meant(line: str, images: Sequence[tuple[int, str]], classes: set[str]) -> list[int]:
    """Returns the numbers of the images that a line can mean.

    Args:
      line: a file's name, with folders before it or without.
      images: numbers and paths of all images of that name.
      classes: names of folders, which a line does not mention in vain.
    """
    *folders, name = line.strip("/").split("/")
    # As much of the path as fits: the folders above may be those of another machine.
    for skipped in range(len(folders) + 1):
        if skipped and folders[skipped - 1] in classes:
            return []
        tail = "/".join([*folders[skipped:], name])
        if numbers := [number for number, image in images if f"/{image}".endswith(f"/{tail}")]:
            return numbers
    return []


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]
