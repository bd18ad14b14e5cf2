"""The signs of collapse, told from one step's metrics."""

import math
from collections.abc import Mapping

_NEAR = 0.01  # of ln K


def collapse_signs(metrics: Mapping[str, float], prototypes: int) -> dict[str, str]:
    """Returns the signs of collapse in one step's metrics.

    With K prototypes, ln K is the entropy of the uniform distribution; near means within 1 % of
    ln K. A class loss there means that the student predicts, or the teacher gives, nothing but
    the uniform distribution; a teacher's entropy there, that it tells no prototype from another;
    one near 0, that it is certain, which is collapse where it is certain of the same prototype for
    all images (`teacher_mean_entropy` near 0).

    Args:
      metrics: with `class_loss` (not weighted), `teacher_entropy` and `teacher_mean_entropy`.
      prototypes: K.

    Returns:
      {sign: one line that says what was seen and what helps}; empty for a healthy step.
    """
    highest = math.log(prototypes)
    near = _NEAR * highest
    loss, entropy = metrics["class_loss"], metrics["teacher_entropy"]
    signs = {}
    if abs(loss - highest) <= near:
        signs["class_loss"] = (
            f"the class loss {loss:.3f} is within 1 % of ln {prototypes} = {highest:.3f}, that of "
            "uniform outputs: the student learns nothing from the teacher; lower optim.lr or "
            "loss.teacher_temp, or lengthen optim.warmup"
        )
    if entropy >= highest - near:
        signs["uniform"] = (
            f"the teacher's entropy {entropy:.3f} is within 1 % of ln {prototypes} = "
            f"{highest:.3f}: it gives every image the uniform distribution; lower "
            "loss.teacher_temp and loss.teacher_temp_start"
        )
    if entropy <= near:
        signs["one_hot"] = (
            f"the teacher's entropy {entropy:.3f} is near 0 (over the batch's mean: "
            f"{metrics['teacher_mean_entropy']:.3f}; near 0 there too, all images fall on one "
            "prototype); raise loss.teacher_temp, lower loss.center_momentum or optim.lr, and "
            "keep head.norm_last_layer"
        )
    return signs
