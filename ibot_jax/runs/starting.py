"""A run that starts from the weights of another one."""

from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path
from ibot_jax.methods.step import TrainState, teacher_params
from ibot_jax.weights.checkpoints import complete_steps, find_checkpoint, find_workdir
from ibot_jax.weights.finetuned import is_finetuned
from ibot_jax.weights.history import read_config
from ibot_jax.weights.read import check_shapes, readable
from ibot_jax.weights.sanity import check_finite

_WEIGHTS = ("student", "teacher", "centers")


def read_weights(path: str, like: TrainState) -> dict[str, Any]:
    """Reads the weights of another run.

    Args:
      path: a workdir, whose latest checkpoint is taken, or one checkpoint's folder.
      like: arrays or jax.ShapeDtypeStructs with shardings, which say how to lay them out.

    Returns:
      "student", "teacher" and "centers", as they are in `like`.

    Raises:
      UserError: if there is no checkpoint, or a tensor has another shape there or is not finite.
    """
    folder = _find_checkpoint(path)
    layouts = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        {
            "student": like.params,
            "teacher": teacher_params(like),
            "centers": like.centers,
        },
    )
    weights = {}
    with readable(folder), ocp.StandardCheckpointer() as checkpointer:
        for name, layout in layouts.items():
            check_shapes(folder, name, layout)
            weights[name] = checkpointer.restore(folder / name, layout)
            check_finite(weights[name], f"init_from={path!r}: {name}")
    return weights


def replace_weights(state: TrainState, weights: dict[str, Any]) -> TrainState:
    """Returns a fresh state with other weights; its optimiser state and step stay."""
    return state.replace(
        params=weights["student"],
        opt_state=optax.tree.set(state.opt_state, teacher=weights["teacher"]),
        centers=weights["centers"],
    )


def _find_checkpoint(path: str) -> epath.Path:
    """Returns the folder of a checkpoint: `path`, or the latest whole one of the run `path`."""
    given = absolute_path(path)
    workdir, which = find_workdir(given, "latest")
    if is_finetuned(read_config(workdir) or {}):
        raise UserError(
            f"init_from={path!r} is of a fine-tuning; give the workdir of a pre-training"
        )
    if complete_steps(workdir / "checkpoints"):
        step, _ = find_checkpoint(workdir, which, _WEIGHTS)
        return workdir / "checkpoints" / str(step)
    if all((given / name).is_dir() for name in _WEIGHTS):  # as `convert` writes it
        return given
    raise UserError(
        f"init_from={path!r} holds no checkpoint; give the workdir of a run, or one folder of "
        "its checkpoints/"
    )
