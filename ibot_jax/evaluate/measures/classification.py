"""How well scores of classes tell what images show, by the measures of the fine-grained sets."""

from collections.abc import Callable

import numpy as np


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of images whose class has the largest score, in percent.

    Args:
      scores: [Q, C].
      labels: [Q] int.
    """
    return 100 * float(np.mean(scores.argmax(axis=1) == labels))


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over the classes that occur of the accuracy on their images, in percent.

    Args as of `top1`.
    """
    hits = scores.argmax(axis=1) == labels
    return 100 * float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))


def mean_average_precision_11(scores: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean over the classes of VOC2007's average precision, in percent.

    For each of the recalls 0, 0.1, ..., 1 the largest precision at this recall or a higher one; of
    these eleven the mean. A class that no image shows does not count.

    Args:
      scores: [Q, C].
      targets: [Q, C] int, 1 for classes that an image shows, 0 for others, and -1 where the image
        does not count for the class.
    """
    precisions = []
    for own, shown in zip(scores.T, targets.T, strict=True):
        order = np.argsort(-own[shown >= 0], kind="stable")
        found = np.cumsum(shown[shown >= 0][order] == 1)
        if not len(found) or not found[-1]:
            continue
        precision = found / np.arange(1, len(found) + 1)
        # In whole numbers: 3 of 10 are a recall of 0.3.
        reached = [precision[10 * found >= tenths * found[-1]].max() for tenths in range(11)]
        precisions.append(np.mean(reached))
    if not precisions:
        raise ValueError("no image shows a class")
    return 100 * float(np.mean(precisions))


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": top1,
    "mean_class": mean_class_accuracy,
    "map11": mean_average_precision_11,
}
