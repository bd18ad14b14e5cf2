"""How much arithmetic one training step asks for: its model FLOPs, from the config alone.

Matrix products only, a multiplication and an addition being 2 FLOPs; norms, activations, softmax,
losses and the optimiser are left out, as the model FLOPs utilisation (MFU; PaLM, appendix B) has
it. A backward pass is two products for each one of the forward pass, by the weights and by the
inputs; the patch embedding has only the first, since no gradient reaches pixels.

This is the least that a step can do: the student's head runs on class tokens and on masked patch
tokens; so does the teacher's last layer, while its MLP runs on all tokens of the global views,
whose mean moves the patch center. What is computed besides (empty slots for masked tokens, a block
once more for the backward pass) takes time, but is no part of the model.
"""

import math

from ml_collections import ConfigDict

from ibot_jax.models import counts
from ibot_jax.models.geometry import geometry_of

_BACKWARD = 2  # times the forward pass


def backbone_flops(config: ConfigDict, size: tuple[int, int]) -> dict[str, float]:
    """Counts the backbone's forward pass on one view, by kind: see `counts.flops`.

    Args:
      config: of the run.
      size: the view's height and width in pixels.
    """
    return counts.flops(config.model, config.data.channels, size, config.data.global_size)


def head_flops(config: ConfigDict, *, mlp: float, classes: float, patches: float) -> dict:
    """Counts a head's forward pass.

    With width D, hidden width H, bottleneck U and K prototypes.

    Args:
      config: of the run.
      mlp: tokens that pass the MLP.
      classes: class tokens that meet their prototypes.
      patches: patch tokens that meet theirs.

    Returns:
      FLOPs by kind: "mlp", 2 (D H + H^2 + H U) each token; "last_layer", 2 U K each token.
    """
    head = config.head
    width = geometry_of(config.model).width
    hidden, bottleneck = head.hidden_dim, head.bottleneck_dim
    outputs = classes * head.prototypes + patches * head.patch_prototypes
    return {
        "mlp": mlp * 2 * hidden * (width + hidden + bottleneck),
        "last_layer": 2 * bottleneck * outputs,
    }


def expected_masked(config: ConfigDict) -> float:
    """Returns how many tokens of a global view are masked on average: the mean ratio's share.

    The noise of a ratio has mean 0. A mask may stay below its ratio, never pass it: random ones
    round down, and of block-wise ones the last block does not always fit.
    """
    ratios = config.masks.ratios
    return sum(ratios) / len(ratios) * _patches(config, config.data.global_size)


def step_flops(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Counts one training step, forward and backward, of which the batch has masks.

    Returns:
      FLOPs for each image of the batch, by part of the step and kind of product.
    """
    data = config.data
    global_view = backbone_flops(config, data.global_size)
    local_view = backbone_flops(config, data.local_size)
    masked = data.global_views * expected_masked(config)
    views = data.global_views + data.local_views
    global_tokens = data.global_views * (1 + _patches(config, data.global_size))
    student_head = head_flops(config, mlp=views + masked, classes=views, patches=masked)
    return {
        "student_backbone_global": _times(data.global_views, _trained(global_view)),
        "student_backbone_local": _times(data.local_views, _trained(local_view)),
        "student_head": _trained(student_head),
        "teacher_backbone": _times(data.global_views, global_view),
        "teacher_head": head_flops(
            config, mlp=global_tokens, classes=data.global_views, patches=masked
        ),
    }


def total(flops: dict[str, dict[str, float]]) -> float:
    """Adds up all parts and kinds."""
    return sum(sum(kinds.values()) for kinds in flops.values())


def _patches(config: ConfigDict, size: tuple[int, int]) -> int:
    return math.prod(geometry_of(config.model).grid(size))


def _trained(forward: dict[str, float]) -> dict[str, float]:
    """Returns forward and backward pass."""
    return {
        kind: flops * (1 + (_BACKWARD / 2 if kind == "patch_embedding" else _BACKWARD))
        for kind, flops in forward.items()
    }


def _times(number: int, flops: dict[str, float]) -> dict[str, float]:
    return {kind: number * value for kind, value in flops.items()}
