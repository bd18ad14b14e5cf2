"""The signs of collapse, told from one step's metrics, or from an evaluation."""

import math
from collections.abc import Mapping

_NEAR = 0.01  # of ln K
_LOW_RANK = 2.0
_FEW = 0.01  # of the prototypes that could be in use
_UNEQUAL = 0.4  # of the tokens; runs on digits that reach 97 % k-NN have up to 0.26
_DRIFTED = 0.1  # squared, of cosines
_ALIKE = 0.05  # between unit vectors: a cosine of 0.9988


def collapse_signs(metrics: Mapping[str, float], prototypes: int) -> dict[str, str]:
    """Returns the signs of collapse in one step's metrics.

    With K prototypes, ln K is the entropy of the uniform distribution; near means within 1 % of
    ln K. A class loss there means that the student predicts, or the teacher gives, nothing but
    the uniform distribution; a teacher's entropy there, that it tells no prototype from another;
    one near 0, that it is certain, which is collapse where it is certain of the same prototype for
    all images (`teacher_mean_entropy` near 0).

    Args:
      metrics: with `class_loss` (not weighted), `teacher_entropy` and `teacher_mean_entropy`;
        where there are any, `nearest_distance` and `gram_drift`.
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
    if metrics.get("nearest_distance", _ALIKE) < _ALIKE:
        signs["nearest"] = (
            f"the student's class tokens are {metrics['nearest_distance']:.4f} from the nearest of "
            "another image (unit vectors): images look all but alike to it; raise "
            "loss.koleo_weight, lower optim.lr, or lengthen optim.warmup"
        )
    if metrics.get("gram_drift", 0) > _DRIFTED:
        signs["gram_drift"] = (
            f"the teacher's likenesses of patches (cosines) are {metrics['gram_drift'] ** 0.5:.2f} "
            "from the gram teacher's (root mean square): patches lose what it knew of them; raise "
            "gram.weight, lower optim.lr, or start earlier (gram.start)"
        )
    return signs


def balance_signs(metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns the signs that Sinkhorn and Knopp's turns were too few in one step, of any time.

    That is where the last turn still found more than a fifth of the tokens on other prototypes
    than equal use has.

    Args:
      metrics: with `sinkhorn_class_error` and `sinkhorn_patch_error`, where there are any.

    Returns:
      As `collapse_signs` does.
    """
    signs = {}
    for kind in ("class", "patch"):
        error = metrics.get(f"sinkhorn_{kind}_error", 0.0)
        if error > _UNEQUAL:
            signs[f"sinkhorn_{kind}"] = (
                f"the last turn of sinkhorn found {error:.0%} of the {kind} tokens on prototypes "
                "that others should have: targets are not balanced; raise loss.sinkhorn_turns, "
                "loss.teacher_temp or batch_size"
            )
    return signs


def evaluation_signs(
    values: Mapping[str, float], *, images: int, prototypes: Mapping[str, int]
) -> dict[str, str]:
    """Returns the signs of collapse in an evaluation.

    They are a feature rank below 2, of features that all but point the same way; and prototypes in
    use that are less than 1 % of all, and of what as many images could use.

    Args:
      values: with `feature_rank`, `prototypes_used` and `patch_prototypes_used`.
      images: how many were evaluated.
      prototypes: {"class": K, "patch": K}.

    Returns:
      {sign: one line that says what was seen and what helps}; empty for a healthy teacher.
    """
    signs = {}
    rank = values["feature_rank"]
    if rank < _LOW_RANK:
        signs["rank"] = (
            f"the rank of the teacher's features is {rank:.2f}: {images:,} images look all but "
            "alike to it; lower optim.lr, lengthen optim.warmup, or raise teacher_momentum"
        )
    for kind, key in (("class", "prototypes_used"), ("patch", "patch_prototypes_used")):
        if key not in values:
            continue
        number = prototypes[kind]
        used = round(values[key] * number)
        if used <= max(1, _FEW * min(number, images)):
            signs[key] = (
                f"the {kind} tokens of {images:,} images fall on {used:,} of {number:,} "
                "prototypes; lower optim.lr, of centered targets loss.center_momentum, and keep "
                "head.norm_last_layer"
            )
    return signs
