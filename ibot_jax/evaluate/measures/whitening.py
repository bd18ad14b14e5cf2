"""Whitening of features, learned from others, as the original's copy detection does it."""

from typing import NamedTuple

import numpy as np

_LEAST = 1e-5  # of the largest eigenvalue: smaller ones are raised to it


class Whitening(NamedTuple):
    """What is subtracted, [D], and the projection of the rest, [D, D]."""

    mean: np.ndarray
    projection: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Whitens features [..., D]."""
        return (features - self.mean) @ self.projection


def fit_whitening(features: np.ndarray) -> Whitening:
    """Learns a whitening.

    The projection divides each eigenvector's share by the root of its eigenvalue. As in the
    original (and in DINO), these are of the second moments of features from which the mean is not
    subtracted, though it is from those that are whitened.

    Args:
      features: [M, D] float.
    """
    features = np.asarray(features, np.float64)
    values, vectors = np.linalg.eigh(features.T @ features / len(features))
    values = np.maximum(values, _LEAST * values.max())
    return Whitening(features.mean(axis=0), vectors / np.sqrt(values))
