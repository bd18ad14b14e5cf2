"""The Optax chain: clipping, AdamW, SGD or LARS, freezing, and the EMA teacher as its last link.

Schedules follow the run's step, which `update` takes as the extra argument `step`, so that every
link, frozen or not, reads the same clock.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Params = Any  # a tree of nested dicts with arrays as leaves
Schedule = Callable[[Array], Array]  # step, floating scalar -> value, scalar


def cosine_schedule(base: float, final: float, total: int, warmup: int = 0) -> Schedule:
    """Linear warm-up from 0 to `base`, both ends included, then a half cosine to `final`.

    Args:
      base: value after the warm-up.
      final: value that step `total` would have.
      total: steps of the run.
      warmup: steps of the warm-up, fewer than `total`.

    Returns:
      A function from the step to the value.
    """

    def schedule(step: Array) -> Array:
        rising = base * step / max(warmup - 1, 1)
        # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2)^2, which is not rounded to 0 near the end.
        left = (total - step) / (total - warmup)
        falling = final + (base - final) * jnp.sin(jnp.pi / 2 * left) ** 2
        return jnp.where(step < warmup, rising, falling)

    return schedule


def _stateless(
    update: Callable[[Array, Array, Array], Array],
) -> optax.GradientTransformationExtraArgs:
    """Lifts a function (update, parameter, step) -> update of one tensor to a tree of them."""

    def update_fn(updates, state, params, *, step, **_):
        return jax.tree.map(lambda u, p: update(u, p, step), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update_fn)


def clip_by_tensor_norm(clip: float) -> optax.GradientTransformationExtraArgs:
    """Scales each tensor's gradient by min(1, clip / (norm + 1e-6)), as the original does."""

    def update(gradient, parameter, step):
        del parameter, step
        norm = jnp.sqrt(jnp.sum(jnp.square(gradient)))
        return gradient * jnp.minimum(1, clip / (norm + 1e-6))

    return _stateless(update)


def add_weight_decay(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Adds schedule(step) times the parameter, except to biases, norms and other vectors."""

    def update(gradient, parameter, step):
        return gradient + schedule(step) * parameter if parameter.ndim > 1 else gradient

    return _stateless(update)


def scale_by_negative(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus schedule(step), the learning rate."""
    return _stateless(lambda gradient, parameter, step: -schedule(step) * gradient)


def descent(
    name: str, *, lr: Schedule, weight_decay: Schedule, clip: float
) -> optax.GradientTransformationExtraArgs:
    """Builds the original's optimiser `name`: "adamw", "sgd" or "lars".

    Args:
      name: of the optimiser.
      lr: learning rate by step.
      weight_decay: of tensors with two dimensions and more, by step.
      clip: largest gradient norm of each tensor; 0 turns clipping off.
    """
    decay = add_weight_decay(weight_decay)
    momentum = optax.trace(decay=0.9)
    links = {
        "adamw": lambda: [optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8), decay],
        "sgd": lambda: [decay, momentum],
        "lars": lambda: [
            decay,
            optax.masked(
                optax.scale_by_trust_ratio(trust_coefficient=0.001),
                lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
            ),
            momentum,
        ],
    }[name]()
    clipping = [clip_by_tensor_norm(clip)] if clip else []
    return optax.chain(*clipping, *links, scale_by_negative(lr))


class EmaTeacherState(NamedTuple):
    """State of `ema_teacher`: the teacher's parameters."""

    teacher: Params


def ema_teacher(
    rate: Schedule, init_teacher: Callable[[Params], Params]
) -> optax.GradientTransformationExtraArgs:
    """Keeps the teacher: an exponential moving average of the student's updated parameters.

    It passes updates through, and must be the last link of the chain: it applies them to see
    the student as it will be.

    Args:
      rate: by step, the part of the student that the teacher takes up: 1 - momentum, which in
        float32 cannot be told from the momentum once that is close to 1.
      init_teacher: from the student's parameters to the teacher's. Leaves whose path the student
        lacks are never moved.
    """

    def init(params):
        # A copy: state whose leaves share buffers with the parameters could not be donated.
        return EmaTeacherState(jax.tree.map(jnp.copy, init_teacher(params)))

    def update(updates, state, params, *, step, **_):
        student = flax.traverse_util.flatten_dict(optax.apply_updates(params, updates))
        teacher = flax.traverse_util.flatten_dict(state.teacher)
        taken = rate(step)
        moved = {
            path: (value + taken * (student[path] - value)).astype(value.dtype)
            if path in student
            else value
            for path, value in teacher.items()
        }
        return updates, EmaTeacherState(flax.traverse_util.unflatten_dict(moved))

    return optax.GradientTransformationExtraArgs(init, update)


def parameter_groups(params: Params, norm_last_layer: bool) -> Params:
    """Labels every leaf "fixed", "last_layer" or "rest".

    Fixed are the prototypes' norms `g` where `norm_last_layer`; last layers (class and patch)
    are those that the run freezes at its start.
    """

    def label(path, _):
        names = [entry.key for entry in path]
        if not any(name in ("last_layer", "patch_last_layer") for name in names):
            return "rest"
        return "fixed" if norm_last_layer and names[-1] == "g" else "last_layer"

    return jax.tree_util.tree_map_with_path(label, params)


def make_optimizer(
    name: str,
    *,
    lr: Schedule,
    weight_decay: Schedule,
    clip: float,
    freeze_last_layer: int,
    norm_last_layer: bool,
    teacher_rate: Schedule,
    init_teacher: Callable[[Params], Params],
) -> optax.GradientTransformationExtraArgs:
    """Builds the whole chain; its `update` needs `params` and the keyword `step`.

    Args:
      name: "adamw", "sgd" or "lars".
      lr: learning rate by step.
      weight_decay: by step.
      clip: largest gradient norm of each tensor; 0 turns clipping off.
      freeze_last_layer: steps in which the last layers get no update, no decay and no moments.
      norm_last_layer: whether the prototypes' norms stay as they are.
      teacher_rate: 1 - the teacher's momentum, by step.
      init_teacher: from the student's parameters to the teacher's.
    """
    optimizer = descent(name, lr=lr, weight_decay=weight_decay, clip=clip)
    thawing = optax.transforms.conditionally_mask(optimizer, lambda n: n >= freeze_last_layer)
    groups = optax.partition(
        {"rest": optimizer, "last_layer": thawing, "fixed": optax.set_to_zero()},
        lambda params: parameter_groups(params, norm_last_layer),
    )
    return optax.chain(groups, ema_teacher(teacher_rate, init_teacher))
