"""The Optax chain: clipping, AdamW, SGD or LARS, freezing, rates, and the EMA teacher at its end.

Schedules follow the run's step, which `update` takes as the extra argument `step`, so that every
link, frozen or not, reads the same clock.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from ibot_jax.models.parameters import Params, names_of
from ibot_jax.optim.ema_teacher import ema_teacher
from ibot_jax.optim.freezing import Freezing
from ibot_jax.optim.groups import is_last_layer, modules, parameter_groups
from ibot_jax.optim.rates import Factors, scale_by
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


def clip_by_norm(clip: float, *, by_module: bool) -> optax.GradientTransformation:
    """Scales gradients by min(1, clip / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Args:
      clip: largest norm.
      by_module: whether the norm is that of a module, see `groups.modules` (DINOv2), or that of all
        gradients.
    """

    def update(gradients, _):
        names = modules(gradients) if by_module else jax.tree.map(lambda _: "", gradients)
        by_name = {}
        for name, gradient in zip(*map(jax.tree.leaves, (names, gradients)), strict=True):
            by_name.setdefault(name, []).append(gradient)
        factors = {
            name: jnp.minimum(1, clip / (optax.tree.norm(parts) + 1e-6))
            for name, parts in by_name.items()
        }
        return jax.tree.map(lambda gradient, name: gradient * factors[name], gradients, names)

    return optax.stateless(update)


def add_weight_decay(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Adds schedule(step) times the parameter, except to biases, norms and other vectors."""

    def update(gradient, parameter, step):
        return gradient + schedule(step) * parameter if parameter.ndim > 1 else gradient

    return _stateless(update)


def scale_by_negative(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus schedule(step), the learning rate."""
    return _stateless(lambda gradient, parameter, step: -schedule(step) * gradient)


def descent(
    name: str,
    *,
    lr: Schedule,
    weight_decay: Schedule,
    clip: float,
    betas: tuple[float, float],
    eps: float,
) -> optax.GradientTransformationExtraArgs:
    """Builds the original's optimiser `name`: "adamw", "sgd" or "lars".

    Args:
      name: of the optimiser.
      lr: learning rate by step.
      weight_decay: of tensors with two dimensions and more, by step.
      clip: largest gradient norm of each tensor; 0 turns clipping off.
      betas: of AdamW's moments.
      eps: of AdamW.
    """
    decay = add_weight_decay(weight_decay)
    momentum = optax.trace(decay=0.9)
    links = {
        "adamw": lambda: [optax.scale_by_adam(*betas, eps), decay],
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


def last_layers_from(first: int) -> optax.GradientTransformationExtraArgs:
    """Gives the last layers a learning rate of 0 before a step, as DINOv2 does."""

    def update(updates, state, params, *, step, **_):
        names = names_of(params)
        trained = jnp.where(step < first, 0, 1)
        updates = jax.tree.map(
            lambda update, name: update * trained if is_last_layer(name) else update, updates, names
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def make_optimizer(
    name: str,
    *,
    lr: Schedule,
    weight_decay: Schedule,
    clip: float,
    clip_by: str,
    betas: tuple[float, float],
    eps: float,
    rates: Sequence[Factors],
    freezing: Freezing,
    freeze_last_layer: int,
    freeze_last_layer_by: str,
    norm_last_layer: bool,
    teacher_rate: Schedule,
    init_teacher: Callable[[Params], Params],
    averaged: Callable[[Params], Params] = lambda params: params,
) -> optax.GradientTransformationExtraArgs:
    """Builds the whole chain; its `update` needs `params` and the keyword `step`.

    Args:
      name: "adamw", "sgd" or "lars".
      lr: learning rate by step.
      weight_decay: by step.
      clip: largest norm of a gradient; 0 turns clipping off.
      clip_by: what has that norm: "tensor", "module" or "global"; what is fixed has no part in it.
      betas: of AdamW's moments.
      eps: of AdamW.
      rates: factors of the learning rate, by parameter.
      freezing: what gets no update, no decay and no moments, and for how long.
      freeze_last_layer: steps in which the last layers stay as they are.
      freeze_last_layer_by: how: "skipping", without moments and steps of their own, or "rate", a
        learning rate of 0, whose moments go on.
      norm_last_layer: whether the prototypes' norms stay as they are.
      teacher_rate: 1 - the teacher's momentum, by step.
      init_teacher: from the student's parameters to the teacher's.
      averaged: from the student's parameters to those that the teacher averages.
    """
    by_tensor, by_rate = clip_by == "tensor", freeze_last_layer_by == "rate"
    optimizer = descent(
        name,
        lr=lr,
        weight_decay=weight_decay,
        clip=clip if by_tensor else 0,
        betas=betas,
        eps=eps,
    )

    def from_step(first: int) -> optax.GradientTransformationExtraArgs:
        return optax.transforms.conditionally_mask(optimizer, lambda n: n >= first)

    def labels(params: Params) -> Params:
        return parameter_groups(
            params,
            freezing=freezing,
            freeze_last_layer=0 if by_rate else freeze_last_layer,
            norm_last_layer=norm_last_layer,
        )

    def is_fixed(params: Params) -> Params:
        return jax.tree.map(lambda label: label == "fixed", labels(params))

    clipping = (
        []
        if by_tensor or not clip
        else [
            optax.masked(optax.set_to_zero(), is_fixed),
            clip_by_norm(clip, by_module=clip_by == "module"),
        ]
    )
    groups = {
        "rest": optimizer,
        "last_layer": optimizer if by_rate else from_step(freeze_last_layer),
        "fixed": optax.set_to_zero(),
        **{f"frozen_{i}": from_step(first) for i, first in enumerate(freezing.thaws)},
    }
    return optax.chain(
        *clipping,
        optax.partition(groups, labels),
        *map(scale_by, rates),
        *([last_layers_from(freeze_last_layer)] if by_rate else []),
        ema_teacher(teacher_rate, init_teacher, averaged),
    )
