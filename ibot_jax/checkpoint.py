"""Checkpoints with Orbax: saved in the background, resumed, or taken as a start.

A checkpoint holds its parts side by side, so that whoever needs one reads no other:

    checkpoints/STEP/student    {"backbone": ..., "head": ...}
    checkpoints/STEP/teacher    the same of the teacher
    checkpoints/STEP/centers    {"class": [K], "patch": [K]}
    checkpoints/STEP/optimizer  the optimiser's state without the teacher, and the step
    checkpoints/STEP/metrics    {"knn_top1": percent}, where k-NN was evaluated at this step

Another kind of state has other parts, and another figure that tells the best (`Parts`).
"""

import concurrent.futures
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.agreement import same_end, wait_for_all
from ibot_jax.errors import SaveError, UserError
from ibot_jax.paths import absolute_path
from ibot_jax.sanity import check_finite
from ibot_jax.saved import complete_steps
from ibot_jax.step import TrainState, teacher_params

_WEIGHTS = ("student", "teacher", "centers")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a state is saved.

    Attributes:
      names: of its parts.
      split: from the state to {name: tree}.
      join: the inverse.
      metric: whose highest value makes a checkpoint the best.
    """

    names: tuple[str, ...]
    split: Callable[[Any], dict[str, Any]]
    join: Callable[[dict[str, Any]], Any]
    metric: str


class Checkpoints:
    """The checkpoints of a run: the latest few, and the best.

    All processes call all methods, in the same order.
    """

    def __init__(self, workdir: epath.Path, *, keep: int, parts: Parts | None = None):
        """Opens the folder; what an interrupted save left there is removed.

        A checkpoint that lacks files, say by an interrupted copy, is renamed and named in the log.

        Args:
          workdir: of the run.
          keep: how many of the latest to keep; the best stays besides.
          parts: of the state; by default those of a `TrainState`, the best being that by k-NN.
        """
        self._parts = parts or _PRETRAINING
        folder = workdir / "checkpoints"
        with same_end():
            if jax.process_index() == 0:
                _set_incomplete_aside(folder, self._parts.names)
        self._waiter = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._saved = concurrent.futures.Future()  # of the save in the background
        self._saved.set_result(None)
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            get_metric_fn=self._quality,
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=self._quality,  # has metrics written, and makes best_step() known
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the latest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: Any, **metrics: float | None) -> None:
        """Saves a state under its step, in the background, unless that step is saved.

        Its `finite` is saved as True, so that a resumed run tries again.

        Args:
          state: may be donated as soon as this returns.
          **metrics: what was evaluated at this step, percent; None for what was not.

        Raises:
          SaveError: if this or an earlier save failed.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        state = state.replace(finite=jnp.logical_or(state.finite, True))
        known = {name: value for name, value in metrics.items() if value is not None}
        parts = self._parts.split(state)
        args = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
        self._guard(
            lambda: self._manager.save(
                step, args=ocp.args.Composite(**args), metrics=known or None, force=True
            )
        )
        self._saved = self._waiter.submit(self._manager.wait_until_finished)

    def check(self) -> None:
        """Looks after the save in the background, without waiting for it.

        Raises:
          SaveError: if it failed.
        """
        if self._saved.done():
            self._guard(self._saved.result)

    def restore(self, like: Any) -> Any:
        """Restores the latest checkpoint.

        Args:
          like: jax.ShapeDtypeStructs with shardings, which say how to lay it out.

        Raises:
          UserError: if a tensor has another shape.
        """
        step = self._manager.latest_step()
        parts = self._parts.split(like)
        path = self._manager.directory / str(step)
        for name, part in parts.items():
            _check_shapes(path, name, part)
        args = {name: ocp.args.StandardRestore(part) for name, part in parts.items()}
        return self._parts.join(self._manager.restore(step, args=ocp.args.Composite(**args)))

    def wait(self) -> None:
        """Waits until all processes have written all.

        Raises:
          SaveError: on all of them, if a save failed on one.
        """

        def done() -> bool:
            self.check()
            return self._saved.done()

        wait_for_all(done)

    def close(self) -> None:
        """Waits, as `wait` does, and frees what the manager holds."""
        self.wait()
        self._waiter.shutdown()
        self._guard(self._manager.close)

    def _quality(self, metrics: dict[str, float]) -> float:
        return metrics[self._parts.metric]

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:  # Orbax passes on whatever its threads met
            raise SaveError(
                f"a checkpoint could not be written to {self._manager.directory}: "
                f"{' '.join(str(error).split()) or type(error).__name__}; the latest complete one "
                f"is that of step {self._manager.latest_step()}"
            ) from error


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
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _split(state)
    )
    weights = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name in _WEIGHTS:
            _check_shapes(folder, name, layouts[name])
            weights[name] = checkpointer.restore(folder / name, layouts[name])
            check_finite(weights[name], f"init_from={path!r}: {name}")
    return state.replace(
        params=weights["student"],
        opt_state=optax.tree.set(state.opt_state, teacher=weights["teacher"]),
        centers=weights["centers"],
    )


def _set_incomplete_aside(folder: epath.Path, names: tuple[str, ...]) -> None:
    """Renames checkpoints that lack what is written last, which Orbax would take for complete."""
    for entry in folder.iterdir() if folder.exists() else ():
        written = [entry / "_CHECKPOINT_METADATA", *(entry / part / "_METADATA" for part in names)]
        if entry.name.isdecimal() and not all(path.exists() for path in written):
            aside = entry.with_name(f"{entry.name}.incomplete")
            if aside.exists():
                aside.rmtree()
            entry.rename(aside)
            _log.warning("%s is no complete checkpoint; it is now %s", entry, aside.name)


def _split(state: TrainState) -> dict[str, Any]:
    """Takes a state apart into what is saved side by side."""
    return {
        "student": state.params,
        "teacher": teacher_params(state),
        "centers": state.centers,
        "optimizer": {
            "state": optax.tree.set(state.opt_state, teacher=None),
            "step": state.step,
            "finite": state.finite,
        },
    }


def _join(parts: dict[str, Any]) -> TrainState:
    """Is the inverse of `_split`."""
    optimizer = parts["optimizer"]
    return TrainState(
        step=optimizer["step"],
        params=parts["student"],
        opt_state=optax.tree.set(optimizer["state"], teacher=parts["teacher"]),
        centers=parts["centers"],
        finite=optimizer["finite"],
    )


_PRETRAINING = Parts((*_WEIGHTS, "optimizer"), _split, _join, "knn_top1")


def _find_checkpoint(path: str) -> epath.Path:
    """Returns the folder of a checkpoint: `path`, or the latest one of the workdir `path`."""
    given = absolute_path(path)
    for folder in (given / "checkpoints", given):
        if steps := complete_steps(folder):
            return folder / str(steps[-1])
    if all((given / name).is_dir() for name in _WEIGHTS):
        return given
    raise UserError(
        f"init_from={path!r} holds no checkpoint; give the workdir of a run, or one folder of "
        "its checkpoints/"
    )


def _check_shapes(folder: epath.Path, name: str, like: Any) -> None:
    """Compares the saved shapes of a part with those of `like`, tensor by tensor."""
    with ocp.StandardCheckpointer() as checkpointer:
        saved = _shapes(checkpointer.metadata(folder / name).item_metadata.tree)
    wanted = _shapes(like)
    for tensor in sorted(saved.keys() | wanted.keys()):
        if saved.get(tensor) != wanted.get(tensor):
            raise UserError(
                f"{folder} does not fit this config: {name}/{tensor} has shape "
                f"{saved.get(tensor, 'none')} there and {wanted.get(tensor, 'none')} here; "
                "make model, head, input size and optimiser equal"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
