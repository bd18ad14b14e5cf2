"""The training step: one pure function (state, batch, rng) -> (state, metrics).

A step turns uint8 views into normalised ones, runs the teacher on whole global views and the
student on masked global and on local views, and forms both losses on the tokens that they read:
class tokens and masked patches. Gradients pass the Optax chain, whose last link moves the
teacher; the centers move last.
"""

import math
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ibot_jax import forward, losses, models
from ibot_jax import optimizer as optimizers
from ibot_jax.config import Plan

Array = jax.Array
Batch = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step, arrays only.

    Attributes:
      step: [] int32, optimiser steps done.
      params: the student's parameters, {"backbone": ..., "head": ...}.
      opt_state: of the Optax chain; its last link holds the teacher (see `teacher_params`).
      centers: {"class": [K], "patch": [K]}, subtracted from the teacher's outputs.
      finite: [] bool, False once a loss or a gradient was not; from then on steps change nothing.
    """

    step: Array
    params: optimizers.Params
    opt_state: optax.OptState
    centers: dict[str, Array]
    finite: Array


def teacher_params(state: TrainState) -> optimizers.Params:
    """Returns the teacher's parameters, {"backbone": ..., "head": ...}."""
    return optax.tree.get(state.opt_state, "teacher")


def teacher_from_student(params: optimizers.Params, shared_head: bool) -> optimizers.Params:
    """Returns the teacher that starts from a student's parameters.

    Where only the teacher's head shares its last layer, that layer follows the student's class
    layer; where only the student's does, the teacher's patch layer starts as a copy of it and,
    having no counterpart, stays.
    """
    head = dict(params["head"])
    if shared_head:
        head.pop("patch_last_layer", None)
    else:
        head.setdefault("patch_last_layer", head["last_layer"])
    return {**params, "head": head}


def masked_slots(config: ConfigDict) -> int:
    """Returns M, the most tokens that a view's mask can have under the config's mask ratios."""
    rows, columns = models.patch_grid(config)
    ratio = max(r + v for r, v in zip(config.masks.ratios, config.masks.variances, strict=True))
    return min(math.ceil(ratio * rows * columns), rows * columns)


def make_schedules(config: ConfigDict, plan: Plan) -> dict[str, optimizers.Schedule]:
    """Returns what changes over a run, by name, as functions of the step."""
    optim, loss = config.optim, config.loss
    total = plan.total_steps
    cosine = optimizers.cosine_schedule

    def temperature(start: float, final: float, wait: str) -> optimizers.Schedule:
        def epochs(key, duration):
            return math.ceil(plan.steps(key, duration) / plan.steps_per_epoch)

        warmup = epochs("loss.teacher_temp_warmup", loss.teacher_temp_warmup)
        wait = epochs("masks.start", wait)
        return lambda step: losses.teacher_temperature(
            step // plan.steps_per_epoch, start, final, warmup, wait
        )

    return {
        "lr": cosine(
            optim.lr * config.batch_size / 256,
            optim.min_lr,
            total,
            plan.steps("optim.warmup", optim.warmup),
        ),
        "weight_decay": cosine(optim.weight_decay, optim.weight_decay_end, total),
        "teacher_momentum": cosine(config.teacher_momentum, 1.0, total),
        "teacher_temp": temperature(loss.teacher_temp_start, loss.teacher_temp, "0 epochs"),
        "teacher_patch_temp": temperature(
            loss.teacher_patch_temp_start, loss.teacher_patch_temp, config.masks.start
        ),
    }


def make_optimizer(config: ConfigDict, plan: Plan) -> optax.GradientTransformationExtraArgs:
    """Builds the Optax chain of a run from its config."""
    optim = config.optim
    schedules = make_schedules(config, plan)
    return optimizers.make_optimizer(
        optim.name,
        lr=schedules["lr"],
        weight_decay=schedules["weight_decay"],
        clip=optim.clip,
        freeze_last_layer=plan.steps("optim.freeze_last_layer", optim.freeze_last_layer),
        norm_last_layer=config.head.norm_last_layer,
        teacher_momentum=schedules["teacher_momentum"],
        init_teacher=lambda params: teacher_from_student(params, config.head.shared_teacher),
    )


def make_init(config: ConfigDict, plan: Plan) -> Callable[[Array], TrainState]:
    """Returns the function from a key to a run's first state; the teacher copies the student."""
    backbone = models.build_backbone(config)
    head = models.build_head(config, teacher=False)
    tx = make_optimizer(config, plan)
    dtype = models.param_dtype(config)

    def init(rng: Array) -> TrainState:
        backbone_rng, head_rng = jax.random.split(rng)
        image = jnp.zeros((1, *config.data.global_size, config.data.channels), dtype)
        token = jnp.zeros((1, config.model.width), dtype)
        params = {
            "backbone": backbone.init(backbone_rng, image)["params"],
            "head": head.init(head_rng, token)["params"],
        }
        patch_prototypes = (
            config.head.prototypes if config.head.shared_teacher else config.head.patch_prototypes
        )
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            centers={
                "class": jnp.zeros(config.head.prototypes, dtype),
                "patch": jnp.zeros(patch_prototypes, dtype),
            },
            finite=jnp.ones((), bool),
        )

    return init


def make_losses(config: ConfigDict) -> Callable:
    """Returns the function that forms both losses of a batch.

    It maps (student params, teacher params, centers, temperatures {"class", "patch"}, batch, rng)
    to (loss, (metrics, means)), `means` being the teacher's mean outputs {"class": [K],
    "patch": [K]} over all tokens, which move the centers. It is to be differentiated with
    respect to the student's parameters.
    """
    backbone = models.build_backbone(config)
    student_head = models.build_head(config, teacher=False)
    teacher_head = models.build_head(config, teacher=True)
    slots = masked_slots(config)
    student_temp = config.loss.student_temp

    def loss_fn(params, teacher, centers, temps, batch: Batch, rng: Array):
        global_views, local_views = (
            forward.normalize(
                batch[name], config.data.mean, config.data.std, models.compute_dtype(config)
            )
            for name in ("global_views", "local_views")
        )
        masks = batch["masks"]
        flat_masks = masks.reshape(*masks.shape[:2], -1)  # [B, G, N]
        indices, gathered = forward.gather_masked(flat_masks, slots)
        counts = flat_masks.sum(axis=-1)

        logits, means = forward.teacher_forward(
            backbone, teacher_head, teacher, global_views, indices
        )
        targets = {
            kind: losses.teacher_probs(logits[kind], centers[kind], temps[kind])
            for kind in ("class", "patch")
        }
        student = forward.student_forward(
            backbone, student_head, params, global_views, local_views, masks, indices, rng
        )
        class_loss = losses.class_loss(student["class"], targets["class"], student_temp)
        patch_loss = losses.patch_loss(
            student["patch"], targets["patch"], gathered, counts, student_temp
        )
        class_loss = config.loss.class_weight * class_loss
        patch_loss = config.loss.patch_weight * patch_loss

        student_probs = jax.nn.softmax(jax.lax.stop_gradient(student["class"]) / student_temp)
        patch_entropy = (losses.entropy(targets["patch"]) * gathered).sum()
        metrics = {
            "class_loss": class_loss,
            "patch_loss": patch_loss,
            "student_entropy": losses.entropy(student_probs).mean(),
            "teacher_entropy": losses.entropy(targets["class"]).mean(),
            "teacher_mean_entropy": losses.entropy(targets["class"].mean(axis=(0, 1))),
            "teacher_patch_entropy": patch_entropy / jnp.maximum(counts.sum(), 1),
            "mask_ratio": masks.mean(),
        }
        return class_loss + patch_loss, (metrics, means)

    return loss_fn


def make_train_step(
    config: ConfigDict, plan: Plan
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]:
    """Returns the training step, a pure function to be jitted with its state donated.

    Its arguments: the state; a batch with `global_views` [B, G, H, W, C] and `local_views`
    [B, L, H', W', C], uint8 pixels or normalised floats, and `masks` [B, G, h, w] bool; and the
    run's key, from which it derives this step's by the state's step. It returns the next state
    and metrics, scalars of the parameters' dtype. A state that is not `finite` comes back as it
    was.
    """
    tx = make_optimizer(config, plan)
    schedules = make_schedules(config, plan)
    loss_fn = make_losses(config)
    center_momentum = config.loss.center_momentum
    dtype = models.param_dtype(config)
    # Accelerators multiply float32 in bfloat16 or TF32 unless told otherwise.
    precision = "default" if config.dtype == "bfloat16" else "highest"

    def train_step(state: TrainState, batch: Batch, rng: Array):
        clock = state.step.astype(dtype)
        now = {name: schedule(clock) for name, schedule in schedules.items()}
        with jax.default_matmul_precision(precision):
            (loss, (metrics, means)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
                state.params,
                teacher_params(state),
                state.centers,
                {"class": now["teacher_temp"], "patch": now["teacher_patch_temp"]},
                batch,
                jax.random.fold_in(rng, state.step),
            )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params, step=clock)
        moved = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            centers={
                kind: losses.update_center(state.centers[kind], means[kind], center_momentum)
                for kind in ("class", "patch")
            },
        )
        # A finite loss can have gradients that are not, and one update would spoil every tensor.
        grad_norm = optax.tree.norm(gradients)
        finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        next_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        metrics = {
            "loss": loss,
            **metrics,
            **now,
            "grad_norm": grad_norm,
            "finite": finite,
        }
        metrics = {name: value.astype(dtype) for name, value in metrics.items()}
        return next_state.replace(finite=finite), metrics

    return train_step


def make_feature_fn(config: ConfigDict) -> Callable[[optimizers.Params, Array], Array]:
    """Returns the function from (backbone params, uint8 images [B, H, W, C]) to features.

    Features are the class tokens after the last norm, [B, D] float32.
    """
    backbone = models.build_backbone(config)

    def features(params: optimizers.Params, images: Array) -> Array:
        dtype = models.compute_dtype(config)
        images = forward.normalize(images, config.data.mean, config.data.std, dtype)
        return backbone.apply({"params": params}, images)[:, 0].astype(jnp.float32)

    return features
