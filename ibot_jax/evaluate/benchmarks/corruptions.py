"""Mean corruption error (Hendrycks and Dietterich, arXiv 1903.12261, section 4.1)."""

from collections.abc import Mapping, Sequence

# AlexNet's error in percent, mean over five severities, as its authors publish it: what the error
# of another model is divided by.
ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
SEVERITIES = (1, 2, 3, 4, 5)


def corruption_errors(top1: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the error of each corruption over AlexNet's, in percent.

    Args:
      top1: accuracy in percent at each severity, by corruption.
    """
    return {
        name: 100 * (100 - sum(values) / len(values)) / ALEXNET_ERRORS[name]
        for name, values in top1.items()
    }


def mean_corruption_error(top1: Mapping[str, Sequence[float]]) -> float:
    """Returns mCE, the mean of `corruption_errors` over all fifteen corruptions.

    Raises:
      ValueError: if one is missing.
    """
    if missing := ALEXNET_ERRORS.keys() - top1.keys():
        raise ValueError(f"there is no accuracy of {min(missing)}")
    errors = corruption_errors(top1)
    return sum(errors[name] for name in ALEXNET_ERRORS) / len(ALEXNET_ERRORS)
