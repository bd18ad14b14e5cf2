"""Labels as sources write them, texts, and the numbers that they become."""

import itertools
import logging
import sys
from collections.abc import Sequence

import numpy as np

_MOST = 1_000_000  # classes, and so numbers that are taken for those of classes

_log = logging.getLogger(__name__)


def folders_as_labels(names: Sequence[str]) -> list[str]:
    """Returns for each name the first folder that not all share; "" for all if there is none."""
    shared, shortest = None, sys.maxsize
    for name in names:
        folders = name.split("/")[:-1]
        shortest = min(shortest, len(folders))
        shared = folders if shared is None else _common(shared, folders)
    if shared is None or len(shared) >= shortest:  # one folder, or images beside folders
        return [""] * len(names)
    return [sys.intern(name.split("/")[len(shared)]) for name in names]


def _common(first: list[str], second: list[str]) -> list[str]:
    pairs = zip(first, second, strict=False)
    return [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def numbered(labels: Sequence[str], spec: str) -> tuple[np.ndarray | None, list[str] | None]:
    """Returns numbers for labels, and their names; None twice where not all have one.

    Labels that are whole numbers below a million stay what they are, and classes go up to the
    highest; larger ones are names of classes, as texts are.

    Args:
      labels: of the images, "" where there is none.
      spec: how the user names the source, for a warning where some have none.
    """
    missing = sum(not label for label in labels)
    if missing:
        if missing < len(labels):
            _log.warning(
                "%s is taken without labels: %s of %s images have none",
                *(spec, f"{missing:,}", f"{len(labels):,}"),
            )
        return None, None
    if all(label.isdecimal() and int(label) < _MOST for label in labels):
        numbers = np.array(labels, np.int32)
        return numbers, [str(number) for number in range(numbers.max(initial=-1) + 1)]
    names = sorted(set(labels))
    number_of = {name: number for number, name in enumerate(names)}
    return np.array([number_of[label] for label in labels], np.int32), names


def first_of_each(labels: np.ndarray, number: int) -> np.ndarray:
    """Returns the places of the first so many of each label, in their order."""
    order = np.argsort(labels, kind="stable")
    of_label = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(of_label, of_label)
    return np.sort(order[rank < number])
