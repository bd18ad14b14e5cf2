"""Mean intersection over union of a segmentation, from counts of all pixels."""

import numpy as np


def count(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts pixels by class.

    Args:
      prediction: [...] int, classes from 0 to num_classes - 1.
      truth: [...] int; pixels of other values do not count.
      num_classes: C.

    Returns:
      [C, C] int64, pixels of each true class (row) by predicted class (column).
    """
    known = truth < num_classes
    pairs = num_classes * truth[known].astype(np.int64) + prediction[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(counts: np.ndarray) -> dict[str, float]:
    """Returns mean IoU, mean accuracy of the classes, and accuracy of all pixels, in percent.

    Means are over the classes that occur: for IoU in truth or prediction, for accuracy in truth.

    Args:
      counts: [C, C], as of `count`, with at least one pixel.
    """
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    union = true + predicted - right
    return {
        "miou": 100 * float(np.mean(right[union > 0] / union[union > 0])),
        "mean_accuracy": 100 * float(np.mean(right[true > 0] / true[true > 0])),
        "pixel_accuracy": 100 * float(right.sum() / counts.sum()),
    }
