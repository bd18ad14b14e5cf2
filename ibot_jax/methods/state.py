"""What a run carries from step to step, and what a step reads of it."""

from typing import Any

import flax
import jax
import optax

from ibot_jax.models.parameters import Params

Array = jax.Array


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step, arrays only.

    Attributes:
      step: [] int32, optimiser steps done.
      params: the student's parameters, {"backbone": ..., "head": ...}.
      opt_state: of the Optax chain; its last link holds the teacher (see `teacher_params`).
      buffers: what the method keeps besides, by name: {"centers": {"class": [K], ...}}.
      finite: [] bool, False once a loss or a gradient was not; from then on steps change nothing.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    buffers: dict[str, Any]
    finite: Array


def teacher_params(state: TrainState) -> Params:
    """Returns the teacher's parameters, {"backbone": ..., "head": ...}."""
    return optax.tree.get(state.opt_state, "teacher")
