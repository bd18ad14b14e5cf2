"""Errors of depths, image by image, as Eigen et al. (2014) and their followers state them."""

import numpy as np

# Sides of a box, over those of the image: top, bottom, left, right.
Box = tuple[float, float, float, float]
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)  # of NYUd
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)  # of KITTI
ALL = (0.0, 1.0, 0.0, 1.0)
NAMES = ("a1", "a2", "a3", "abs_rel", "rmse", "log_10", "rmse_log", "silog", "sq_rel", "mae")


def place(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """Returns the rows and columns of a box of an image of (height, width)."""
    height, width = size
    sides = height, height, width, width
    top, bottom, left, right = (int(x * side) for x, side in zip(box, sides, strict=True))
    return slice(top, bottom), slice(left, right)


def counted(
    target: np.ndarray,
    nearest: float,
    farthest: float,
    box: Box,
    of: tuple[int, int] | None = None,
) -> np.ndarray:
    """Returns which pixels count, [H, W] bool.

    Args:
      target: measured depths [H, W], metres, 0 where there is none.
      nearest: depths up to this one do not count.
      farthest: nor do those from this one on.
      box: `EIGEN`, `GARG` or `ALL`.
      of: the height and width whose box it is, in pixels from the top left; the target's if None.
    """
    inside = np.zeros(target.shape, bool)
    inside[place(box, of or target.shape)] = True
    return inside & (target > nearest) & (target < farthest)


def errors(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Returns the errors of one image, by name.

    `a1`, `a2` and `a3` are shares of pixels whose ratio to the truth, or its inverse, is below
    1.25, 1.25^2 and 1.25^3; `silog` is 100 times the standard deviation of the differences of
    logarithms; the others are means, or roots of means of squares.

    Args:
      prediction: [P] metres, of the pixels that count, above 0.
      target: likewise.
    """
    ratio = np.maximum(target / prediction, prediction / target)
    difference = prediction - target
    logs = np.log(prediction) - np.log(target)
    values = (
        *(np.mean(ratio < 1.25**power) for power in (1, 2, 3)),
        np.mean(np.abs(difference) / target),
        np.sqrt(np.mean(difference**2)),
        np.mean(np.abs(np.log10(prediction) - np.log10(target))),
        np.sqrt(np.mean(logs**2)),
        100 * np.sqrt(max(np.mean(logs**2) - np.mean(logs) ** 2, 0.0)),
        np.mean(difference**2 / target),
        np.mean(np.abs(difference)),
    )
    return {name: float(value) for name, value in zip(NAMES, values, strict=True)}
