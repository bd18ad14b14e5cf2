"""A run that starts from the weights of another one."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.methods.state import TrainState
from ibot_jax.parallel.agreement import first_text, same_end
from ibot_jax.parallel.processes import is_first
from ibot_jax.runs.checkpoint import centers_of, weights_of
from ibot_jax.weights.checkpoints import RESTORE, complete_steps
from ibot_jax.weights.find import find
from ibot_jax.weights.read import read_like, read_some_like, readable
from ibot_jax.weights.sanity import check_finite


def read_start(path: str, like: TrainState) -> dict[str, Any]:
    """Reads the weights of another run; all processes read the checkpoint that the first one finds.

    Args:
      path: a workdir, whose latest checkpoint is taken, or one checkpoint's folder.
      like: arrays or jax.ShapeDtypeStructs with shardings, which say how to lay them out.

    Returns:
      "student", "teacher" and, where `like` has them, "centers", as they are there.

    Raises:
      UserError: if there is no checkpoint, or a tensor has another shape there or is not finite.
    """
    layouts = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), weights_of(like)
    )
    found = ""
    with same_end():
        if is_first():  # a run that goes on has another latest checkpoint a moment later
            found = str(_find_checkpoint(path, [*layouts]))
    folder = epath.Path(first_text(found))
    weights = {}
    with readable(folder, RESTORE):
        for name, layout in layouts.items():
            # Centers of another method, or as `convert` writes them, are of more kinds of tokens.
            read = read_some_like if name == "centers" else read_like
            weights[name] = read(folder, name, layout)
            check_finite(weights[name], f"init_from={path!r}: {name}")
    return weights


def replace_weights(state: TrainState, weights: dict[str, Any]) -> TrainState:
    """Returns a fresh state with other weights; its optimiser state and step stay."""
    return state.replace(
        params=weights["student"],
        opt_state=optax.tree.set(state.opt_state, teacher=weights["teacher"]),
        buffers=state.buffers | centers_of(weights),
    )


def _find_checkpoint(path: str, parts: Sequence[str]) -> epath.Path:
    """Returns the folder of a checkpoint: the latest whole one of a run, or the one given."""
    source = find(path)
    if source.kind == "fine-tuning":
        raise UserError(
            f"init_from={path!r} is of a fine-tuning; give the workdir of a pre-training"
        )
    if source.kind == "run" and complete_steps(source.place / "checkpoints"):
        step, _ = source.checkpoint(*parts)
        return source.place / "checkpoints" / str(step)
    if all((source.place / name).is_dir() for name in parts):  # as `convert` writes it
        return source.place
    raise UserError(
        f"init_from={path!r} holds no checkpoint; give the workdir of a run, or one folder of "
        "its checkpoints/"
    )
