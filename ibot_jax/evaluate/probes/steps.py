"""The steps of a probe's training, which goes on where it was interrupted.

Its state is kept every thousand steps, in a file of `Kept`.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np

from ibot_jax.errors import UserError
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.parallel.agreement import in_step
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress

State = TypeVar("State")
Batch = dict[str, Any]

_SAVE_EVERY = 1000


def train(
    start: State,
    step: Callable[[State, Batch, int], State],
    batches: Callable[[int], Iterable[dict[str, np.ndarray]]],
    *,
    steps: int,
    kept: Kept,
    mesh: jax.sharding.Mesh,
    what: str,
) -> State:
    """Takes all steps, or those that are left.

    Args:
      start: the state before the first step, a tree of arrays.
      step: (state, batch of global arrays, number of the step) -> state.
      batches: (step) -> this process's share of the batches from that step on.
      steps: how many there are.
      kept: where the state is kept.
      mesh: the devices.
      what: is trained, for the screen.

    Returns:
      The state after the last step, on all devices.

    Raises:
      UserError: if an image cannot be read, or the state cannot be read or written.
    """
    done, state = _read(start, kept)
    state = jax.device_put(state, replicated(mesh))
    left = progress(in_step(batches(done)), steps, what, start=done)
    for number, (batch, _) in zip(range(done, steps), left, strict=False):
        state = step(state, to_global(batch, mesh), number)
        if (number + 1) % _SAVE_EVERY == 0 or number + 1 == steps:
            leaves = jax.device_get(jax.tree.leaves(state))
            kept.write({"step": number + 1} | {f"leaf_{n}": x for n, x in enumerate(leaves)})
    return state


def trained(start: State, *, steps: int, kept: Kept, mesh: jax.sharding.Mesh) -> State:
    """Returns what a training has come to that took all its steps, on all devices.

    Args:
      start: what was trained, the first of its state, as it started or by shapes.
      steps: how many there were.
      kept: where the state is kept.
      mesh: the devices.

    Raises:
      UserError: if there is none, or it has not ended.
    """
    done, found = _read(start, kept)
    if done < steps:
        raise UserError(
            f"{kept.path} is absent, or its training not at its end (step {done} of {steps}); "
            "run the same evaluation again"
        )
    return jax.device_put(found, replicated(mesh))


def _read(start: State, kept: Kept) -> tuple[int, State]:
    """Returns how many steps are done, and the state after them, or the first arrays of it."""
    arrays, leaves = kept.read(), jax.tree.leaves(start)
    if arrays is None:
        return 0, start
    try:
        done, found = int(arrays["step"]), [arrays[f"leaf_{n}"] for n in range(len(leaves))]
        if [x.shape for x in found] != [np.shape(x) for x in leaves]:
            raise ValueError("arrays of other shapes")
    except (KeyError, ValueError) as error:
        raise kept.damaged(error) from error
    return done, jax.tree.unflatten(jax.tree.structure(start), found)
