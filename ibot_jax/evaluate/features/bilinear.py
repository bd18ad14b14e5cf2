"""Bilinear resizing as a matrix, which more can be multiplied into than into a resized image.

Pixels are squares and their centres count (`align_corners=False`), borders are repeated, and what
becomes smaller is not smoothed: as in the dense evaluations of DINOv2 and DINOv3.
"""

import numpy as np


def weights(size: int, to: int) -> np.ndarray:
    """Returns the shares that the entries of one side have in those of the resized one.

    Args:
      size: entries of the side.
      to: entries that it is to have.

    Returns:
      [to, size] float64, rows of sum 1.
    """
    place = np.clip((np.arange(to) + 0.5) * (size / to) - 0.5, 0, size - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, size - 1)
    rows = np.arange(to)
    matrix = np.zeros((to, size))
    matrix[rows, before] = 1 - (place - before)
    matrix[rows, after] += place - before
    return matrix
