"""The training step: one pure function (state, batch, rng) -> (state, metrics).

A step turns uint8 views into normalised ones, runs the teacher on whole global views and the
student on masked global and on local views, and forms both losses on the tokens that they read:
class tokens and masked patches. Gradients pass the Optax chain, whose last link moves the
teacher; the centers move last.
"""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ibot_jax.config.plan import Plan
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.losses import centering, monitors
from ibot_jax.methods.objective import make_losses, masked_capacity_used
from ibot_jax.models.block import drop_path_gains
from ibot_jax.models.build import build_backbone, build_head, param_dtype
from ibot_jax.optim import optimizer as optimizers
from ibot_jax.optim.ema_teacher import teacher_from_student
from ibot_jax.optim.schedules import make_schedules
from ibot_jax.parallel.gradients import average_gradients, largest_of_devices
from ibot_jax.parallel.layouts import replicated, state_sharding
from ibot_jax.parallel.mesh import TENSOR_AXIS

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
        teacher_rate=schedules["teacher_rate"],
        init_teacher=lambda params: teacher_from_student(params, config.head.shared_teacher),
    )


def make_init(config: ConfigDict, plan: Plan) -> Callable[[Array], TrainState]:
    """Returns the function from a key to a run's first state; the teacher copies the student."""
    backbone = build_backbone(config.model, config.data.global_size, config.dtype)
    head = build_head(config.head, config.dtype, teacher=False)
    tx = make_optimizer(config, plan)
    dtype = param_dtype(config.dtype)

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


def state_layout(config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh) -> TrainState:
    """Returns a state of shapes that say where its arrays lie (jax.ShapeDtypeStruct)."""
    state = jax.eval_shape(make_init(config, plan), jax.random.key(0))
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        state,
        state_sharding(state, mesh),
    )


def jit_init(config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    """Returns the jitted `make_init`: each device makes its part of the first state."""
    layouts = jax.tree.map(lambda x: x.sharding, state_layout(config, plan, mesh))
    return jax.jit(make_init(config, plan), out_shardings=layouts)


def jit_train_step(
    config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh, kernels: Kernels = XLA
) -> jax.stages.Wrapped:
    """Returns the jitted `make_train_step`, whose state is donated and stays where it lies."""
    layouts = jax.tree.map(lambda x: x.sharding, state_layout(config, plan, mesh))
    return jax.jit(
        make_train_step(config, plan, mesh, kernels),
        donate_argnums=0,
        out_shardings=(layouts, replicated(mesh)),
    )


def make_train_step(
    config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh, kernels: Kernels = XLA
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]:
    """Returns the training step, a pure function to be jitted with its state donated.

    Its arguments: the state; a batch; and the run's key, from which it
    derives this step's by the state's step. A batch has `global_views` [B, G, H, W, C] and
    `local_views` [B, L, H', W', C], uint8 pixels or normalised floats; `masks` [B, G, h, w] bool;
    and, where colours are still to be changed, `global_colors` [B, G, 12] and `local_colors`
    [B, L, 12] (see `colors.COLUMNS`). The step returns the next state and metrics, scalars of the
    parameters' dtype. A state that is not `finite` comes back as it was. `kernels` may compute what
    they can of it.
    """
    tx = make_optimizer(config, plan)
    schedules = make_schedules(config, plan)
    gradients_of_rows = _accumulated(
        jax.value_and_grad(make_losses(config, mesh, kernels), has_aux=True),
        config.grad_accum_steps,
    )

    tensor = mesh.shape[TENSOR_AXIS]

    def gradients_of_device(params, constants, rows):
        (loss, (averages, outputs)), gradients = gradients_of_rows(params, constants, rows)
        used = largest_of_devices(masked_capacity_used(config, rows["masks"], tensor))
        return (loss, (averages | {"masked_capacity_used": used}, outputs)), gradients

    gradient_fn = average_gradients(gradients_of_device, mesh)
    center_momentum = config.loss.center_momentum
    dtype = param_dtype(config.dtype)
    # Accelerators multiply float32 in bfloat16 or TF32 unless told otherwise.
    precision = "default" if config.dtype == "bfloat16" else "highest"

    def train_step(state: TrainState, batch: Batch, rng: Array):
        clock = state.step.astype(dtype)
        now = {name: schedule(clock) for name, schedule in schedules.items()}
        constants = {
            "teacher": teacher_params(state),
            "centers": state.centers,
            "temps": {"class": now["teacher_temp"], "patch": now["teacher_patch_temp"]},
        }
        rows = batch | _draw_gains(config, batch, jax.random.fold_in(rng, state.step))
        with jax.default_matmul_precision(precision):
            (loss, (averages, outputs)), gradients = gradient_fn(state.params, constants, rows)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params, step=clock)
        moved = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            centers={
                kind: centering.update_center(state.centers[kind], outputs[kind], center_momentum)
                for kind in ("class", "patch")
            },
        )
        # A finite loss can have gradients that are not, and one update would spoil every tensor.
        grad_norm = optax.tree.norm(gradients)
        finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        next_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        metrics = {"loss": loss, **_scalars(averages, batch["masks"]), **now}
        metrics["teacher_momentum"] = 1 - metrics.pop("teacher_rate")
        metrics |= {"grad_norm": grad_norm, "finite": finite}
        metrics = {name: value.astype(dtype) for name, value in metrics.items()}
        return next_state.replace(finite=finite), metrics

    return train_step


def _draw_gains(config: ConfigDict, batch: Batch, rng: Array) -> Batch:
    """Draws stochastic depth for every view: {"gains": [B, V, depth, 2]}, or nothing.

    For the whole batch at once, so that parts of it (`grad_accum_steps`) see the same.
    """
    if not config.model.drop_path:
        return {}
    views = batch["global_views"].shape[1] + batch["local_views"].shape[1]
    shape = (batch["global_views"].shape[0], views)
    return {"gains": drop_path_gains(rng, config.model.drop_path, config.model.depth, shape)}


def _accumulated(gradient_fn: Callable, parts: int) -> Callable:
    """Returns a function of (params, constants, rows) that averages over parts of the rows.

    `gradient_fn` takes (params, teacher, centers, temps, batch, gains). Its results are means over
    the batch, so their mean over the parts is what the whole batch gives.
    """

    def whole(params, constants, rows):
        rows = dict(rows)
        gains = rows.pop("gains", None)
        return gradient_fn(
            params, constants["teacher"], constants["centers"], constants["temps"], rows, gains
        )

    def part_by_part(params, constants, rows):
        def add(total, part):
            return jax.tree.map(jnp.add, total, whole(params, constants, part)), None

        split_rows = jax.tree.map(
            lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows
        )
        first = jax.tree.map(lambda x: x[0], split_rows)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(whole, params, constants, first)
        )
        total, _ = jax.lax.scan(add, zeros, split_rows)
        return jax.tree.map(lambda x: x / parts, total)

    return whole if parts == 1 else part_by_part


def _scalars(averages: dict[str, Array], masks: Array) -> dict[str, Array]:
    """Returns what is reported of the averages over a batch."""
    averages = dict(averages)
    masked = averages.pop("masked_tokens")
    return averages | {
        "teacher_mean_entropy": monitors.entropy(averages.pop("class_targets")),
        "teacher_patch_entropy": averages["teacher_patch_entropy"]
        / jnp.where(masked > 0, masked, 1),
        "mask_ratio": masks.mean(),
    }
