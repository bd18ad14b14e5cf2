"""A run that starts from the weights of another one."""

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.paths import absolute_path
from ibot_jax.restoring import check_shapes, readable
from ibot_jax.sanity import check_finite
from ibot_jax.saved import complete_steps, find_checkpoint, find_workdir
from ibot_jax.step import TrainState, teacher_params

_WEIGHTS = ("student", "teacher", "centers")


def start_from(path: str, state: TrainState) -> TrainState:
    """Replaces a fresh state's student, teacher and centers by those of another run.

    Args:
      path: a workdir, whose latest checkpoint is taken, or one checkpoint's folder.
      state: fresh; its optimiser state and step stay.

    Raises:
      UserError: if there is no checkpoint, or a tensor has another shape there or is not finite.
    """
    folder = _find_checkpoint(path)
    layouts = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        {
            "student": state.params,
            "teacher": teacher_params(state),
            "centers": state.centers,
        },
    )
    weights = {}
    with readable(folder), ocp.StandardCheckpointer() as checkpointer:
        for name, layout in layouts.items():
            check_shapes(folder, name, layout)
            weights[name] = checkpointer.restore(folder / name, layout)
            check_finite(weights[name], f"init_from={path!r}: {name}")
    return state.replace(
        params=weights["student"],
        opt_state=optax.tree.set(state.opt_state, teacher=weights["teacher"]),
        centers=weights["centers"],
    )


def _find_checkpoint(path: str) -> epath.Path:
    """Returns the folder of a checkpoint: `path`, or the latest whole one of the run `path`."""
    given = absolute_path(path)
    workdir, which = find_workdir(given, "latest")
    if complete_steps(workdir / "checkpoints"):
        step, _ = find_checkpoint(workdir, which, _WEIGHTS)
        return workdir / "checkpoints" / str(step)
    if all((given / name).is_dir() for name in _WEIGHTS):  # as `convert` writes it
        return given
    raise UserError(
        f"init_from={path!r} holds no checkpoint; give the workdir of a run, or one folder of "
        "its checkpoints/"
    )
