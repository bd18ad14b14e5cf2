"""Both losses of a batch: teacher and student forward, then heads and losses where the rows lie.

The student's head runs on class tokens and masked patch tokens only, the teacher's last layer on
those of the whole views. Masked tokens are gathered on their own device into chunks of a fixed size
(`masked_capacity`); in the rare step with more of them than one chunk holds, another one follows.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.colors import apply_colors
from ibot_jax.losses import monitors
from ibot_jax.losses.centering import teacher_probs
from ibot_jax.losses.chunked import sum_of_chunks
from ibot_jax.losses.class_tokens import class_loss
from ibot_jax.losses.patches import patch_loss, patch_weights
from ibot_jax.methods import forward
from ibot_jax.models.build import build_backbone, build_head, compute_dtype
from ibot_jax.models.geometry import geometry_of
from ibot_jax.parallel.mesh import TENSOR_AXIS
from ibot_jax.parallel.tensor import over_prototypes

Array = jax.Array
Objective = Callable[..., tuple[Array, tuple[dict[str, Array], dict[str, Array]]]]


def masked_capacity(config: ConfigDict, views: int, tensor: int = 1) -> int:
    """Returns the slots of a chunk for the masked tokens of `views` global views.

    Two standard deviations above the expected number under `masks.ratios` and `masks.variances`;
    fewer where `loss.max_logits` bounds the logits of a device that has one of `tensor` parts of
    the prototypes.
    """
    rows, columns = geometry_of(config.model).grid(config.data.global_size)
    pairs = list(zip(config.masks.ratios, config.masks.variances, strict=True))
    mean = sum(ratio for ratio, _ in pairs) / len(pairs)
    # The variance of the ratio: of a uniform entry, and of uniform noise of half-width v.
    square = sum(ratio**2 + v**2 / 3 for ratio, v in pairs) / len(pairs)
    expected = views * mean + 2 * math.sqrt(views * (square - mean**2))
    slots = math.ceil(expected * rows * columns / 64) * 64  # whole tiles of a matrix unit
    bound = config.loss.max_logits * tensor // config.head.patch_prototypes
    return max(min(slots, views * rows * columns, bound), 1)


def masked_capacity_used(config: ConfigDict, masks: Array, tensor: int = 1) -> Array:
    """Returns a device's masked tokens over the slots of a chunk for its views, a float scalar.

    Above 1 a chunk more than usual is needed. It is told of the whole batch: parts of it
    (`grad_accum_steps`) have slots of their own, in proportion a few more.

    Args:
      config: of the run.
      masks: [B, G, h, w] bool, of the device's images.
      tensor: parts of the prototypes.
    """
    views = masks.shape[0] * masks.shape[1]
    return masks.sum() / masked_capacity(config, views, tensor)


def make_losses(config: ConfigDict, mesh: jax.sharding.Mesh, kernels: Kernels = XLA) -> Objective:
    """Returns the function that forms both losses of one device's rows; `kernels` may compute them.

    It maps (student params, teacher params, centers, temperatures {"class", "patch"}, rows of a
    batch, gains [B, V, depth, 2] of stochastic depth or None) to (loss, (averages, outputs)), to be
    differentiated by the student's parameters. The averages over the rows are scalars, and
    `class_targets` [K]; `outputs` are the teacher's mean outputs {"class": [K], "patch": [K]},
    which move the centers. Means over devices of these are the whole batch's.
    """
    backbone = build_backbone(config.model, config.data.global_size, config.dtype, kernels)
    teacher_head = build_head(config.head, config.dtype, teacher=True)
    dtype = compute_dtype(config.dtype)
    tensor = mesh.shape[TENSOR_AXIS]
    head_losses = over_prototypes(_make_head_losses(config, tensor), mesh)

    def normalized_views(batch: dict[str, Array], kind: str) -> Array:
        views, colors = batch[f"{kind}_views"], batch.get(f"{kind}_colors")
        if colors is not None:
            views = apply_colors(views, colors, config.data.blur_radius[1], kernels)
        return forward.normalize(views, config.data.mean, config.data.std, dtype)

    def loss_fn(params, teacher, centers, temps, batch: dict[str, Array], gains: Array | None):
        global_views, local_views = (normalized_views(batch, kind) for kind in ("global", "local"))
        masks = batch["masks"]
        units, outputs = forward.teacher_forward(backbone, teacher_head, teacher, global_views)
        class_tokens, tokens = forward.student_forward(
            backbone, params, global_views, local_views, masks, gains
        )
        shared = {
            "student": params["head"],
            "teacher": teacher["head"],
            "centers": centers,
            "temps": temps,
        }
        rows = {
            "class_tokens": class_tokens,
            "tokens": tokens,
            "units": units,
            "masks": masks.reshape(*masks.shape[:2], -1),
        }
        averages, class_targets = head_losses(shared, rows)
        loss = averages["class_loss"] + averages["patch_loss"]
        return loss, (averages | {"class_targets": class_targets}, outputs)

    return loss_fn


def _make_head_losses(
    config: ConfigDict, tensor: int
) -> Callable[[dict, dict], tuple[dict[str, Array], Array]]:
    """Returns the function that runs heads and losses on rows, for one of `tensor` prototype parts.

    It maps (parameters, centers, temperatures; class tokens [B, V, D], tokens [B * G, 1 + N, D],
    the teacher's unit vectors of the latter, masks [B, G, N]) to averages and the mean target of
    this part of the prototypes.
    """
    over = TENSOR_AXIS if tensor > 1 else None
    student_head = build_head(config.head, config.dtype, teacher=False, parts=tensor)
    teacher_head = build_head(config.head, config.dtype, teacher=True, parts=tensor)
    student_temp = config.loss.student_temp

    def logits_and_targets(kind, student_params, rows, units, constants):
        """Returns the student's logits of tokens and the teacher's targets for units."""
        student = {"params": student_params}
        unit = student_head.apply(student, rows, method="bottleneck")
        logits = student_head.apply(student, unit, method=f"{kind}_logits")
        teacher = {"params": constants["teacher"]}
        teacher_logits = teacher_head.apply(teacher, units, method=f"{kind}_logits")
        targets = teacher_probs(
            teacher_logits, constants["centers"][kind], constants["temps"][kind], over
        )
        return logits, targets

    def class_chunk(params, rows, fixed, constants, valid):
        logits, targets = logits_and_targets("class", params, rows, fixed["units"], constants)

        def total(by_image):
            return jnp.tensordot(valid.astype(by_image.dtype), by_image, 1, precision="highest")

        soft = jax.lax.stop_gradient(logits) / student_temp
        return total(class_loss(logits, targets, student_temp, over)), {
            "student_entropy": total(monitors.entropy_of_logits(soft, over).mean(axis=1)),
            "teacher_entropy": total(monitors.entropy(targets, over).mean(axis=1)),
            "class_targets": total(targets.mean(axis=1)),
            "teacher_views_kl": total(monitors.views_kl(targets, over)),
            "teacher_student_agreement": total(monitors.same_choice(soft, targets, over)),
        }

    def patch_chunk(params, rows, fixed, constants, valid):
        logits, targets = logits_and_targets("patch", params, rows, fixed["units"], constants)
        loss = patch_loss(logits, targets, fixed["weights"] * valid, student_temp, over)
        return loss, {"teacher_patch_entropy": (monitors.entropy(targets, over) * valid).sum()}

    def head_losses(shared, rows):
        class_tokens, tokens, masks = rows["class_tokens"], rows["tokens"], rows["masks"]
        batch, views = class_tokens.shape[:2]
        params = shared["student"]
        constants = jax.lax.stop_gradient(
            {name: shared[name] for name in ("teacher", "centers", "temps")}
        )
        units = jax.lax.stop_gradient(rows["units"])
        class_units = units[:, 0].reshape(*masks.shape[:2], -1)

        every_image = jnp.ones_like(masks[:, 0, 0])
        arguments = params, class_tokens, {"units": class_units}, constants, every_image
        images = max(config.loss.max_logits * tensor // (config.head.prototypes * views), 1)
        if images < batch:
            class_sum, averages = sum_of_chunks(class_chunk, images, *arguments)
        else:
            class_sum, averages = class_chunk(*arguments)
        averages = {name: value / batch for name, value in averages.items()}

        num_views = masks.shape[0] * masks.shape[1]
        capacity = masked_capacity(config, num_views, tensor)
        # Class tokens stay among the rows, never selected: leaving them out would copy the others.
        masked_rows, weights = (
            jnp.pad(x, ((0, 0), (0, 0), (1, 0))).reshape(-1)
            for x in (masks, patch_weights(masks, class_sum.dtype))
        )
        patch_sum, sums = sum_of_chunks(
            patch_chunk,
            capacity,
            params,
            tokens.reshape(len(masked_rows), -1),
            {"units": units.reshape(len(masked_rows), -1), "weights": weights},
            constants,
            masked_rows,
        )
        averages |= {
            "class_loss": config.loss.class_weight * class_sum / batch,
            "patch_loss": config.loss.patch_weight * patch_sum,
            "teacher_patch_entropy": sums["teacher_patch_entropy"] / num_views,
            "masked_tokens": masks.sum() / num_views,
        }
        return averages, averages.pop("class_targets")

    return head_losses
