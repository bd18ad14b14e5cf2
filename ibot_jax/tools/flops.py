"""How much arithmetic one training step asks for: its model FLOPs, from the config alone.

Matrix products only, a multiplication and an addition being 2 FLOPs; norms, activations, softmax,
losses and the optimiser are left out, as the model FLOPs utilisation (MFU; PaLM, appendix B) has
it; so are logits that are computed anew, as the turns of Sinkhorn and Knopp do. A backward pass is
two products for each one of the forward pass, by the weights and by the inputs; the patch embedding
has only the first, since no gradient reaches pixels.

This is the least that a step can do: heads run on class tokens and on masked patch tokens. Only
where the mean over all patches moves a center (iBOT), the MLP of the teacher's head runs on all
tokens of the global views. What is computed besides (empty slots for masked tokens, a block
once more for the backward pass) takes time, but is no part of the model.
"""

import functools
import math

from ibot_jax.config.anchor import anchor_is_kept, gram_size
from ibot_jax.config.high_res import largest_views
from ibot_jax.config.masking import masked_share
from ibot_jax.config.section import Section
from ibot_jax.models import counts
from ibot_jax.models.architectures import geometry_of

_BACKWARD = 2  # times the forward pass


def head_flops(
    head: Section, width: int, *, mlp: tuple[float, float], classes: float, patches: float
) -> dict[str, float]:
    """Counts a head's forward pass.

    With width D, hidden width H, bottleneck U and K prototypes.

    Args:
      head: the config's section.
      width: of the backbone's tokens.
      mlp: class tokens and patch tokens that pass the MLP, each its own where heads are separate.
      classes: class tokens that meet their prototypes.
      patches: patch tokens that meet theirs.

    Returns:
      FLOPs by kind: "mlp", 2 (D H + H^2 + H U) each token; "last_layer", 2 U K each token.
    """
    sizes = counts.head_sizes(head)
    prototypes = head.prototypes, head.patch_prototypes
    compared = zip(sizes, prototypes, (classes, patches), strict=True)
    return {
        "mlp": sum(
            number * 2 * hidden * (width + hidden + units)
            for number, (hidden, units) in zip(mlp, sizes, strict=True)
        ),
        "last_layer": sum(number * 2 * units * outputs for (_, units), outputs, number in compared),
    }


def expected_masked(masks: Section, grid: tuple[int, int]) -> float:
    """Returns how many tokens of a global view are masked on average: the mean ratio's share.

    The noise of a ratio has mean 0. A mask may stay below its ratio: random ones round down, and of
    block-wise ones the last block does not always fit. Only those of kind "dinov3" have a little
    more, the upper ends of their steps.

    Args:
      masks: the config's section.
      grid: of a mask.
    """
    return masked_share(masks)[0] * math.prod(grid)


def step_flops(
    model: Section,
    head: Section,
    data: Section,
    masks: Section,
    *,
    trained: tuple[int, int],
    mean_of_patches: bool = True,
    visible: bool = False,
) -> dict[str, dict[str, float]]:
    """Counts one training step, forward and backward, of which the batch has masks.

    Args:
      model: the config's section, as the next three.
      head: likewise.
      data: likewise.
      masks: likewise.
      trained: height and width in pixels of a global view that windows depend on.
      mean_of_patches: whether the mean over all patches moves a center.
      visible: whether visible patches are compared, too.

    Returns:
      FLOPs for each image of the batch, by part of the step and kind of product.
    """
    geometry = geometry_of(model)
    grid = geometry.grid(data.global_size)
    global_view, local_view = (
        counts.flops(model, data.channels, size, trained)
        for size in (data.global_size, data.local_size)
    )
    of_view = math.prod(grid) if visible else expected_masked(masks, grid)
    masked = data.global_views * of_view
    views = data.global_views + data.local_views
    # Where nothing is masked, no patch token is compared, nor has a center that counts.
    seen = data.global_views * math.prod(grid) if masked and mean_of_patches else masked
    of_head = functools.partial(head_flops, head, geometry.width)
    student_head = of_head(mlp=(views, masked), classes=views, patches=masked)
    return {
        "student_backbone_global": _times(data.global_views, _trained(global_view)),
        "student_backbone_local": _times(data.local_views, _trained(local_view)),
        "student_head": _trained(student_head),
        "teacher_backbone": _times(data.global_views, global_view),
        "teacher_head": of_head(
            mlp=(data.global_views, seen), classes=data.global_views, patches=masked
        ),
    }


def of_run(config: Section) -> dict[str, dict[str, float]]:
    """Counts a step of a run, as `step_flops` does, where its views are largest.

    A gram teacher is taken for one of the student's size.
    """
    model, gram, trained = config.model, config.gram, config.data.global_size
    data = largest_views(config.high_res, config.data)
    found = step_flops(
        model,
        config.head,
        data,
        config.masks,
        trained=trained,
        mean_of_patches=config.method != "dinov2",
        visible=bool(config.loss.visible_weight),
    )
    if anchor_is_kept(gram):
        view = counts.flops(model, data.channels, gram_size(gram, data), trained)
        found["gram_teacher"] = _times(data.global_views, view)
    return found


def total(flops: dict[str, dict[str, float]]) -> float:
    """Adds up all parts and kinds."""
    return sum(sum(kinds.values()) for kinds in flops.values())


def _trained(forward: dict[str, float]) -> dict[str, float]:
    """Returns forward and backward pass."""
    return {
        kind: flops * (1 + (_BACKWARD / 2 if kind == "patch_embedding" else _BACKWARD))
        for kind, flops in forward.items()
    }


def _times(number: int, flops: dict[str, float]) -> dict[str, float]:
    return {kind: number * value for kind, value in flops.items()}
