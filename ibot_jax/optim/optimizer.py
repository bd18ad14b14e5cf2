"""The Optax chain: clipping, AdamW, SGD or LARS, freezing, and the EMA teacher as its last link.

Schedules follow the run's step, which `update` takes as the extra argument `step`, so that every
link, frozen or not, reads the same clock.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ibot_jax.optim.ema_teacher import ema_teacher
from ibot_jax.optim.groups import parameter_groups
from ibot_jax.optim.schedules import Schedule

Array = jax.Array


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


def make_optimizer(
    name: str,
    *,
    lr: Schedule,
    weight_decay: Schedule,
    clip: float,
    freeze_last_layer: int,
    norm_last_layer: bool,
    teacher_rate: Schedule,
    init_teacher: Callable[[optax.Params], optax.Params],
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
