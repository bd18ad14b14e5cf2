"""The signs that a run which starts from weights loses what their features were worth."""

import math
from collections.abc import Mapping

_LEAST = 2.0  # percentage points

_HELP = (
    "lower optim.lr, raise teacher_momentum, freeze the backbone longer while fresh heads warm up "
    '(optim.freeze="backbone: 20%") or lower blocks for good, or train adapters alone (lora.rank)'
)
_IMAGES = {"": "the images", "old_": "the old images"}  # what the names of their values begin with


def forgetting_signs(
    values: Mapping[str, float], first: Mapping[str, float], images: Mapping[str, int]
) -> dict[str, str]:
    """Returns where k-NN is worse than before the first step.

    Worse by more than 2 percentage points, and by more than two standard errors of the difference
    of two such accuracies, so that few test images make no alarm.

    Args:
      values: of an evaluation, with `knn_top1` and `old_knn_top1`, in percent, if they are known.
      first: of the evaluation before the first step, likewise.
      images: how many test images these are of: {"": number, "old_": number}.

    Returns:
      {sign: one line that says what was seen and what helps}; empty where nothing is lost.
    """
    signs = {}
    for prefix, number in images.items():
        key = f"{prefix}knn_top1"
        if key not in values or key not in first:
            continue
        now, before = values[key], first[key]
        if before - now > max(_LEAST, 2 * _error(before, now, number)):
            signs[key] = (
                f"k-NN of {_IMAGES[prefix]} is {now:.1f} %, and was {before:.1f} % before the "
                f"first step: features are being lost; {_HELP}"
            )
    return signs


def _error(before: float, now: float, images: int) -> float:
    """Returns the standard error of the difference, as if of other images, in percentage points."""
    return math.sqrt(sum(p * (100 - p) for p in (before, now)) / images)
