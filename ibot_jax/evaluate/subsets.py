"""Parts of the labels: 1 % or 10 % of each class, or the images that a file lists."""

import numpy as np

from ibot_jax.data.sources import Source
from ibot_jax.data.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.paths import absolute_path


def choose(
    which: str, labels: np.ndarray, rows: np.ndarray, source: Source | TfdsStream, seed: int
) -> np.ndarray:
    """Returns which images of a split are labelled.

    Args:
      which: "all"; a share of each class, "10%", at least one image; or the path of a text file,
        which names an image a line with or without folders (as SimCLR's lists of ImageNet's 1 %
        and 10 % do).
      labels: [M] of the images.
      rows: [M] places of the images in the split.
      source: the split.
      seed: of the choice; it does not depend on anything else but the labels.

    Returns:
      [S] int64, in order, from 0 to M - 1.

    Raises:
      UserError: if it is none of the three, or the file lists what is not there.
    """
    if which == "all":
        return np.arange(len(labels))
    if which.endswith("%"):
        return _stratified(_share(which), labels, seed)
    return _listed(which, rows, source)


def _share(text: str) -> float:
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"--labels={text} is no share above 0% and up to 100%")
    return share


def _stratified(share: float, labels: np.ndarray, seed: int) -> np.ndarray:
    chosen = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        number = max(1, round(share * len(of_class)))
        rng = np.random.default_rng([seed, int(label)])
        chosen.append(rng.permutation(of_class)[:number])
    return np.sort(np.concatenate(chosen))


def _listed(path: str, rows: np.ndarray, source: Source | TfdsStream) -> np.ndarray:
    if isinstance(source, TfdsStream):
        raise UserError(
            f"--labels={path} needs images with names: folders, or TFDS data prepared as "
            "array_record"
        )
    try:
        lines = absolute_path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"--labels={path} is neither all nor a share such as 10%, and no file that can be read "
            f"({error.strerror})"
        ) from error
    wanted = {_file_name(line) for line in lines if line.strip()}
    names = [_file_name(source.describe(int(row))) for row in rows]
    missing = wanted - set(names)
    if missing or not wanted:
        lacks = f"lists {min(missing)}, which {source.name} lacks" if missing else "lists no image"
        raise UserError(f"--labels={path} {lacks}; give the list of these images")
    return np.flatnonzero([name in wanted for name in names])


def _file_name(path: str) -> str:
    return path.strip().rsplit("/", 1)[-1]
