"""What a step reports: the name of each metric, its unit, its meaning, and over what it is a mean.

Reporter, TensorBoard, warnings and docs read this table. Terms of a method are those of some rows
of a batch, on one device; `of_batch` makes the metrics of the whole batch from their averages.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ibot_jax.losses.monitors import entropy

Array = jax.Array

# Over what a metric is formed, and as what a method gives it.
IMAGES = "images"  # the mean, over the batch: a scalar
TOKENS = "tokens"  # the mean, over tokens whose number differs: (their sum, their number)
MEAN_TARGET = "mean target"  # the entropy of the targets' mean over the batch: that mean, [K]
DEVICES = "devices"  # the largest of all devices: a scalar
STEP = "step"  # nothing: one value a step, which the step itself adds


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric of a training step.

    Attributes:
      unit: of its values; "" for a plain number.
      meaning: in a few words.
      over: what it is formed over, one of the above.
      is_loss: whether it is one of the weighted losses whose sum is the loss.
    """

    unit: str
    meaning: str
    over: str = IMAGES
    is_loss: bool = False


METRICS = {
    "loss": Metric("nats", "the sum of the weighted losses", STEP),
    "class_loss": Metric("nats", "cross-entropy of class tokens, weighted", is_loss=True),
    "patch_loss": Metric(
        "nats",
        "cross-entropy of masked patches (with loss.visible_weight of all), weighted",
        is_loss=True,
    ),
    "koleo_loss": Metric(
        "nats", "of KoLeo: minus log distances of class tokens, weighted", is_loss=True
    ),
    "gram_loss": Metric("", "squared difference of likenesses of patches, weighted", is_loss=True),
    "kernel_loss": Metric("", "1 - alignment of patch kernels, weighted", is_loss=True),
    "gram_drift": Metric(
        "", "how far the teacher's likenesses of patches are from the gram teacher's, squared"
    ),
    "student_entropy": Metric("nats", "of the student's class tokens"),
    "teacher_entropy": Metric("nats", "of the targets of class tokens"),
    "teacher_mean_entropy": Metric("nats", "of the mean target of class tokens", MEAN_TARGET),
    "teacher_patch_entropy": Metric("nats", "of the targets of masked patches", TOKENS),
    "teacher_views_kl": Metric("nats", "between the targets of an image's global views"),
    "teacher_student_agreement": Metric(
        "share", "global views for which both networks choose the same prototype"
    ),
    "nearest_distance": Metric(
        "", "between a student's unit class token and the nearest one of another image"
    ),
    "sinkhorn_class_error": Metric(
        "share", "of class tokens on other prototypes than equal use has, before the last turn"
    ),
    "sinkhorn_patch_error": Metric(
        "share", "of masked patches on other prototypes than equal use has, before the last turn"
    ),
    "mask_ratio": Metric("share", "masked patches of the global views"),
    "masked_capacity_used": Metric(
        "share", "masked patches over the slots of a chunk; above 1 one more is needed", DEVICES
    ),
    "lr": Metric("", "learning rate", STEP),
    "weight_decay": Metric("", "weight decay", STEP),
    "teacher_momentum": Metric("", "share of itself that the teacher keeps", STEP),
    "teacher_temp": Metric("", "temperature of the targets of class tokens", STEP),
    "teacher_patch_temp": Metric("", "temperature of the targets of patches", STEP),
    "grad_norm": Metric("", "of all gradients, before they are clipped", STEP),
    "finite": Metric("", "whether loss and gradients are finite, in this step and before", STEP),
}


def of_batch(averages: Mapping[str, Any]) -> dict[str, Array]:
    """Returns metrics, scalars, from the averages over a batch of what a method gives."""
    metrics = {}
    for name, value in averages.items():
        over = METRICS[name].over
        if over == TOKENS:
            total, number = value
            value = total / jnp.where(number > 0, number, 1)
        elif over == MEAN_TARGET:
            value = entropy(value)
        metrics[name] = value
    return metrics
