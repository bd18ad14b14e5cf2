"""Checkpoints with Orbax: saved in the background, and resumed.

A checkpoint holds its parts side by side, so that whoever needs one reads no other:

    checkpoints/STEP/student    {"backbone": ..., "head": ...}, adapters merged
    checkpoints/STEP/teacher    the same of the teacher
    checkpoints/STEP/centers    {"class": [K], "patch": [K]}, of a method that has centers
    checkpoints/STEP/lora       of a run with adapters, those, and what is beneath them
    checkpoints/STEP/optimizer  the optimiser's state without the teacher, the step, and what the
                                method keeps besides centers
    checkpoints/STEP/metrics    {"knn_top1": percent}, where k-NN was evaluated at this step
    checkpoints/STEP/checksums.json  of all these, see `checksums`

Another kind of state has other parts, and another figure that tells the best (`Parts`).
"""

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import SaveError
from ibot_jax.files.checksums import ANNOUNCED, add_figures, read_figures, write_checksums
from ibot_jax.methods.state import TrainState, teacher_params
from ibot_jax.optim.lora import PART, Lora, base_of, networks, with_base
from ibot_jax.parallel import signals
from ibot_jax.parallel.agreement import same_end, wait_for_all
from ibot_jax.parallel.processes import is_first
from ibot_jax.weights.checkpoints import RESTORE, set_damaged_aside
from ibot_jax.weights.read import read_like, readable


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a state is saved.

    Attributes:
      split: from the state to its parts, {name: tree}.
      join: the inverse.
      metric: whose highest value makes a checkpoint the best.
    """

    split: Callable[[Any], dict[str, Any]]
    join: Callable[[dict[str, Any]], Any]
    metric: str


class Checkpoints:
    """The checkpoints of a run: the latest few, and the best.

    All processes call all methods, in the same order.
    """

    def __init__(self, workdir: epath.Path, *, keep: int, parts: Parts | None = None):
        """Opens the folder; what an interrupted save left there is removed.

        Where the newest checkpoint is damaged, the newest that is whole becomes the latest: those
        after it are renamed, never deleted, and named in the log.

        Args:
          workdir: of the run.
          keep: how many of the latest to keep; the best stays besides.
          parts: of the state; by default those of a `TrainState`, the best being that by k-NN.

        Raises:
          UserError: if there are checkpoints, and none is whole.
        """
        self._parts = parts or parts_of(Lora())
        folder = workdir / "checkpoints"
        with same_end():
            if is_first():
                set_damaged_aside(folder)
        self._waiter = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._saved = concurrent.futures.Future()  # of the save in the background
        self._saved.set_result(None)
        self._saving = 0  # the step of that save
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
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._write_checksums
                ),
            ),
        )

    @contextlib.contextmanager
    def none_left_empty(self) -> Iterator[None]:
        """Removes the folder at the end of the block, also at that by a signal, if it is empty."""

        def remove() -> None:
            with contextlib.suppress(OSError):  # it is not; or a bucket, which has no folders
                os.rmdir(self._manager.directory)

        try:
            with signals.before_end(remove):
                yield
        finally:
            remove()

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

        def save():
            self._manager.wait_until_finished()  # Orbax saves one after the other
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(**args),
                metrics=known or None,
                custom_metadata=ANNOUNCED,
                force=True,
            )

        self._guard(save)
        self._saved = self._waiter.submit(self._manager.wait_until_finished)

    def record(self, step: int, **figures: float) -> None:
        """Adds what was evaluated after a step was saved, so that it may be the best.

        Figures that were saved with the step, or recorded before, stay. Waits for the save.

        Args:
          step: that is saved.
          **figures: percent.

        Raises:
          SaveError: if they cannot be written, or a save failed.
        """
        self.wait()
        with same_end():
            folder = self._manager.directory / str(step)
            if is_first() and not read_figures(folder):
                self._guard(lambda: add_figures(folder, figures))
        self._manager.reload()

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
          UserError: if a tensor has another shape, or cannot be read.
        """
        step = self._manager.latest_step()
        parts = self._parts.split(like)
        path = self._manager.directory / str(step)
        with readable(path, RESTORE):
            return self._parts.join({name: read_like(path, name, parts[name]) for name in parts})

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
        return float(metrics.get(self._parts.metric, "-inf"))

    def _write_checksums(self) -> None:
        """Completes what is being saved; called in the background, by the first process alone."""
        final = self._manager.directory / str(self._saving)
        temporary = final.with_name(final.name + ocp.utils.TMP_DIR_SUFFIX)
        write_checksums(temporary if temporary.exists() else final, self._saving)

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:  # Orbax passes on whatever its threads met
            raise SaveError(
                f"a checkpoint could not be written to {self._manager.directory}: "
                f"{' '.join(str(error).split()) or type(error).__name__}; the latest complete one "
                f"is that of step {self._manager.latest_step()}"
            ) from error


def weights_of(state: TrainState) -> dict[str, Any]:
    """Returns what another run may start from: student, teacher, and centers, if there are any."""
    weights = {"student": networks(state.params), "teacher": teacher_params(state)}
    return weights | centers_of(state.buffers)


def centers_of(trees: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"centers": ...} of buffers, weights or parts, or nothing where there are none."""
    return {"centers": trees["centers"]} if "centers" in trees else {}


def _split(state: TrainState) -> dict[str, Any]:
    """Takes a state apart into what is saved side by side."""
    others = {name: tree for name, tree in state.buffers.items() if name != "centers"}
    return weights_of(state) | {
        "optimizer": {
            "state": optax.tree.set(state.opt_state, teacher=None),
            "step": state.step,
            "finite": state.finite,
            **({"buffers": others} if others else {}),
        },
    }


def _join(parts: dict[str, Any]) -> TrainState:
    """Is the inverse of `_split`."""
    optimizer = parts["optimizer"]
    return TrainState(
        step=optimizer["step"],
        params=parts["student"],
        opt_state=optax.tree.set(optimizer["state"], teacher=parts["teacher"]),
        buffers=centers_of(parts) | optimizer.get("buffers", {}),
        finite=optimizer["finite"],
    )


def parts_of(lora: Lora) -> Parts:
    """Returns the parts of a `TrainState`."""
    return with_adapters(Parts(_split, _join, "knn_top1"), lora)


def with_adapters(parts: Parts, lora: Lora) -> Parts:
    """Returns the parts of a state whose `params` may have adapters.

    Whoever reads the parameters alone sees them merged; adapters, and what is beneath them, are a
    part of their own.
    """
    merge = jax.jit(lora.merged)

    def split(state: Any) -> dict[str, Any]:
        if PART not in state.params:
            return parts.split(state)
        base = flax.traverse_util.unflatten_dict(base_of(state.params))
        is_layout = isinstance(state.step, jax.ShapeDtypeStruct)
        params = networks(state.params) if is_layout else merge(state.params)
        beneath = {"base": base, "adapters": state.params[PART]}
        return parts.split(state.replace(params=params)) | {PART: beneath}

    def join(saved: dict[str, Any]) -> Any:
        state = parts.join({name: tree for name, tree in saved.items() if name != PART})
        if PART not in saved:
            return state
        base = flax.traverse_util.flatten_dict(saved[PART]["base"])
        params = with_base(state.params, base) | {PART: saved[PART]["adapters"]}
        return state.replace(params=params)

    return Parts(split, join, parts.metric)
