"""The teacher: an exponential moving average of the student, the last link of the Optax chain."""

from collections.abc import Callable
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from ibot_jax.optim.schedules import Schedule


class EmaTeacherState(NamedTuple):
    """State of `ema_teacher`: the teacher's parameters."""

    teacher: optax.Params


def ema_teacher(
    rate: Schedule,
    init_teacher: Callable[[optax.Params], optax.Params],
    averaged: Callable[[optax.Params], optax.Params] = lambda params: params,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the teacher: an exponential moving average of the student's updated parameters.

    It passes updates through, and must be the last link of the chain: it applies them to see
    the student as it will be.

    Args:
      rate: by step, the part of the student that the teacher takes up: 1 - momentum, which in
        float32 cannot be told from the momentum once that is close to 1.
      init_teacher: from the student's parameters to the teacher's. Leaves whose path the student
        lacks are never moved.
      averaged: from the student's parameters to those that the teacher averages.
    """

    def init(params):
        # A copy: state whose leaves share buffers with the parameters could not be donated.
        return EmaTeacherState(jax.tree.map(jnp.copy, init_teacher(params)))

    @jax.named_scope("ema")
    def update(updates, state, params, *, step, **_):
        student = flax.traverse_util.flatten_dict(averaged(optax.apply_updates(params, updates)))
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


def teacher_from_student(params: optax.Params, shared_head: bool) -> optax.Params:
    """Returns the teacher that starts from a student's parameters.

    Where only the teacher's head shares its last layer, that layer starts as the student's patch
    layer and follows its class layer, as in the original, whose shared layer has both names in a
    state dict, the patch layer's last, and the class layer's in the average. Where only the
    student's does, the teacher's patch layer starts as a copy of it and, having no counterpart,
    stays.
    """
    head = dict(params["head"])
    if shared_head:
        head["last_layer"] = head.pop("patch_last_layer", head["last_layer"])
    else:
        head.setdefault("patch_last_layer", head["last_layer"])
    return {**params, "head": head}
