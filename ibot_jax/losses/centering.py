"""Centering and sharpening: how the teacher's outputs become targets, and how centers move.

Targets are formed with the centers of before a step; the step's outputs move them afterwards.
"""

import jax

from ibot_jax.losses import prototypes

Array = jax.Array


def teacher_probs(
    logits: Array, center: Array, temperature: Array, over: str | None = None
) -> Array:
    """Centers and sharpens the teacher's outputs into targets.

    Args:
      logits: [..., K].
      center: [K], of before this step.
      temperature: scalar.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [..., K] probabilities, without gradient.
    """
    return prototypes.softmax((logits - center) / temperature, over)


def update_center(center: Array, batch_mean: Array, momentum: float) -> Array:
    """Moves a center [K] towards the mean of the teacher's raw outputs [K] of this step."""
    return center * momentum + batch_mean * (1 - momentum)
