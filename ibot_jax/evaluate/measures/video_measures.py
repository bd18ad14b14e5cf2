"""Region similarity J and contour accuracy F of video segmentation, as DAVIS measures them.

Perazzi et al., CVPR 2016, section 5, with what the benchmark's published evaluation
(davis2017-evaluation) adds where the paper is silent.
"""

import itertools
import math

import numpy as np
from scipy.spatial import KDTree

TOLERANCE = 0.008  # of the image's diagonal


def jaccard(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Returns J, intersection over union of two masks [H, W] bool; 1 where both are empty."""
    union = np.logical_or(prediction, truth).sum()
    return float(np.logical_and(prediction, truth).sum() / union) if union else 1.0


def boundary_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Returns F of the contours of two masks [H, W] bool.

    A contour pixel is right if the other contour comes within 0.008 diagonals of it, rounded up to
    pixels; precision and recall are the shares of right ones, F is their harmonic mean.
    """
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    ours, theirs = (np.argwhere(contour(mask)) for mask in (prediction, truth))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    precision = _share_within(ours, theirs, radius)
    recall = _share_within(theirs, ours, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """Returns the contour of a mask [H, W] bool, one pixel wide.

    A pixel is on it if it differs from its right, lower or lower right neighbour.
    """
    outer = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, diagonal = outer[:-1, 1:], outer[1:, :-1], outer[1:, 1:]
    return (mask != right) | (mask != lower) | (mask != diagonal)


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Returns mean, recall and decay of J or F over the frames [T] of an object.

    Recall is the share of frames above 0.5; decay what the last quarter lacks to the first.
    """
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    quarters = [values[first : last + 1] for first, last in itertools.pairwise(edges)]
    decay = quarters[0].mean() - quarters[-1].mean()
    return float(values.mean()), float((values > 0.5).mean()), float(decay)


def _share_within(points: np.ndarray, others: np.ndarray, radius: int) -> float:
    distances, _ = KDTree(others).query(points)
    return float((distances <= radius).mean())
