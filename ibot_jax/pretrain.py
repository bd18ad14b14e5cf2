"""The loop on the host: batches in; metrics, evaluations and checkpoints out."""

import collections
import contextlib
import json
import signal
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from ibot_jax import sharding
from ibot_jax.agreement import first_says, in_step, require_same, same_end
from ibot_jax.checkpoint import Checkpoints, start_from
from ibot_jax.collapse import collapse_signs, evaluation_signs
from ibot_jax.config import Plan, make_plan
from ibot_jax.config_check import check_devices, check_plan, flatten
from ibot_jax.data.pipeline import train_batches
from ibot_jax.data.sources import open_source
from ibot_jax.errors import SaveError, TrainingError
from ibot_jax.evaluate.online import Evaluation
from ibot_jax.metrics import Reporter, header
from ibot_jax.signals import caught_signals
from ibot_jax.step import TrainState, jit_init, jit_train_step, state_layout, teacher_params
from ibot_jax.watchdog import Watchdog
from ibot_jax.workdir import open_workdir, require_shared

# How many steps the host may run ahead of what it has looked at: enough to keep the device busy.
_LAG = 2


def pretrain(config: ConfigDict, workdir: str, *, allow_config_change: bool = False) -> int:
    """Trains a model, or finishes the training that `workdir` holds.

    All processes of the run call it alike, and it ends alike on all.

    Args:
      config: checked (`config_check.check_config`).
      workdir: where the run writes, and what it resumes.
      allow_config_change: resume under a config that differs from the workdir's.

    Returns:
      The exit status: 0 when the run is complete, 130 or 143 when Ctrl-C or SIGTERM ended it
      early, its state saved.

    Raises:
      UserError: for what the user can mend, before anything compiles.
      TrainingError: if the run cannot go on; its state is saved, unless saving is what failed.
    """
    require_same(json.dumps(flatten(config)), "config")
    check_devices(config, jax.device_count(), jax.process_count())
    mesh = sharding.make_mesh(fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)
    watchdog = _make_watchdog(config.data.stall_seconds)
    with same_end():
        source = open_source(
            config.data.source,
            config.data.split,
            data_dir=config.data.data_dir,
            max_per_class=config.data.max_per_class,
            channels=config.data.channels,
        )
        plan = make_plan(config, len(source))
        check_plan(config, plan)
        evaluation = Evaluation(config, source, watchdog.waiting) if config.knn.every else None
        folder = open_workdir(workdir, config, allow_config_change=allow_config_change)
    with same_end():
        require_shared(folder)

    checkpoints = Checkpoints(folder, keep=config.checkpoint.keep)
    state, start = _first_state(config, plan, mesh, checkpoints)
    start_step = int(state.step)
    with contextlib.ExitStack() as stack:
        with same_end():
            reporter = Reporter(folder, plan, start_step=start_step)
            stack.enter_context(contextlib.closing(reporter))
            batches = train_batches(
                source,
                config,
                plan,
                start_step=start_step,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        reporter.say(
            *header(
                config,
                plan,
                state.params,
                mesh,
                data=f"{source.name}: {len(source):,} images",
                evaluation=evaluation.description if evaluation else 'off, knn.every=""',
                start=start,
                workdir=folder,
            )
        )
        loop = _Loop(config, plan, mesh, checkpoints, reporter, evaluation, watchdog)
        signum = loop.run(state, batches)
        checkpoints.close()
        if signum:
            reporter.say(
                f"{signal.Signals(signum).name}: stopped and saved at step "
                f"{checkpoints.latest_step()} of {plan.total_steps}; the same command resumes"
            )
            return 128 + signum
        reporter.say_summary(config.head.prototypes)
    return 0


def _make_watchdog(seconds: float) -> Watchdog:
    several = jax.process_count() > 1
    name = f"process {jax.process_index()} of {jax.process_count()}" if several else "this process"
    return Watchdog(seconds, name)


def _first_state(
    config: ConfigDict, plan: Plan, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
) -> tuple[TrainState, str]:
    """Returns the state that the loop starts from, and in words where it comes from."""
    latest = checkpoints.latest_step()
    if latest is not None:
        complete = "; the run is complete" if latest == plan.total_steps else ""
        state = checkpoints.restore(state_layout(config, plan, mesh))
        return state, f"resumed at step {latest:,}{complete}"
    state = jit_init(config, plan, mesh)(jax.random.key(config.seed))
    if config.init_from:
        return start_from(config.init_from, state), f"weights of {config.init_from}"
    return state, f"random weights, seed {config.seed}"


class _Loop:
    """The loop and what it needs all along."""

    def __init__(
        self,
        config: ConfigDict,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        reporter: Reporter,
        evaluation: Evaluation | None,
        watchdog: Watchdog,
    ):
        self._config = config
        self._plan = plan
        self._mesh = mesh
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._evaluation = evaluation
        self._watchdog = watchdog
        self._pending = collections.deque()  # (step, metrics on the device), not yet looked at
        self._save_every = plan.steps("checkpoint.every", config.checkpoint.every)
        self._log_every = plan.steps("log_every", config.log_every)
        self._evaluate_every = plan.steps("knn.every", config.knn.every) if evaluation else 0
        # Up to here outputs are uniform, and the class loss is at ln K, in every run.
        warmup = plan.steps("optim.warmup", config.optim.warmup)
        self._warm_after = max(warmup, plan.steps_per_epoch)

    def run(self, state: TrainState, batches: Iterator[dict[str, np.ndarray]]) -> int:
        """Runs to the end of the batches, or to a signal, whose number it returns, else 0."""
        layout = sharding.replicated(self._mesh)
        train_step = jit_train_step(self._config, self._plan, self._mesh)
        # Computed, not put there: nothing can be put on the devices of other processes.
        key = jax.jit(lambda: jax.random.key(self._config.seed), out_shardings=layout)()
        step = int(state.step)

        def check() -> int:
            self._checkpoints.check()
            self._reporter.check()
            return caught[0] if caught else 0

        def watch(what: str) -> contextlib.AbstractContextManager:
            return self._watchdog.waiting(f"{what}; steps done: {step:,}")

        with caught_signals() as caught:
            if self._evaluation_due(step) and not first_says(self._reporter.evaluated):
                self._evaluate(step, state)
            try:
                for batch, stop in in_step(batches, check, watch):
                    step += 1
                    state, metrics = train_step(state, sharding.to_global(batch, self._mesh), key)
                    self._look(step, metrics)
                    # A run that is told to stop has no time for it; the resumed one makes up.
                    due = self._evaluation_due(step) and not stop
                    top1 = self._evaluate(step, state) if due else None
                    if self._save_due(step) or top1 is not None or stop:
                        self._save(state, top1)
                    if stop:
                        return stop
            except SaveError:
                raise
            except TrainingError:
                with contextlib.suppress(TrainingError):  # once not finite, a run remains so
                    self._catch_up()
                self._pending.clear()
                self._save(state, None)
                self._checkpoints.wait()
                raise
        return 0

    def _evaluation_due(self, step: int) -> bool:
        last = self._plan.total_steps
        return self._evaluation is not None and (step % self._evaluate_every == 0 or step == last)

    def _save_due(self, step: int) -> bool:
        return step % self._save_every == 0 or step == self._plan.total_steps

    def _evaluate(self, step: int, state: TrainState) -> float | None:
        """Evaluates, reports, and returns k-NN's top-1 accuracy in percent, if there are labels."""
        self._catch_up()
        with self._reporter.paused():
            values = self._evaluation(
                {**teacher_params(state), "centers": state.centers}, self._mesh
            )
        self._reporter.evaluation(step, values)
        if step > self._warm_after:
            head = self._config.head
            prototypes = {"class": head.prototypes, "patch": head.patch_prototypes}
            images = self._evaluation.num_images
            self._warn(step, evaluation_signs(values, images=images, prototypes=prototypes))
        return values.get("knn_top1")

    def _save(self, state: TrainState, top1: float | None) -> None:
        self._catch_up()
        self._reporter.flush()  # before: the lines of a step that is saved are never lost
        waiting = self._watchdog.waiting("storage: the save before, or that of another process")
        with self._reporter.paused(), waiting:
            self._checkpoints.save(state, knn_top1=top1)

    def _look(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Queues a step's metrics, and looks at those of `_LAG` steps ago."""
        self._pending.append((step, metrics))
        if len(self._pending) > _LAG:
            self._look_at(*self._pending.popleft())

    def _catch_up(self) -> None:
        """Looks at all steps that are queued, which waits for the device."""
        while self._pending:
            self._look_at(*self._pending.popleft())

    def _look_at(self, step: int, metrics: dict[str, jax.Array]) -> None:
        with self._watchdog.waiting(f"step {step:,} to return: this or another host may be stuck"):
            finite = bool(metrics["finite"])
        if not finite:
            raise _not_finite(step, metrics)
        self._reporter.step_done(step, metrics)
        if step % self._log_every and step != self._plan.total_steps:
            return
        values = {name: float(value) for name, value in metrics.items() if name != "finite"}
        self._reporter.train(step, values)
        weight = self._config.loss.class_weight
        if step > self._warm_after and weight:
            unweighted = values | {"class_loss": values["class_loss"] / weight}
            self._warn(step, collapse_signs(unweighted, self._config.head.prototypes))

    def _warn(self, step: int, signs: dict[str, str]) -> None:
        for sign, text in signs.items():
            self._reporter.warn_once(sign, f"at step {step}, {text}")


def _not_finite(step: int, metrics: dict[str, jax.Array]) -> TrainingError:
    terms = [name for name in ("class", "patch") if not np.isfinite(metrics[f"{name}_loss"])]
    named = f"the {' and the '.join(terms)} loss was" if terms else "the gradients were"
    return TrainingError(
        f"{named} not finite at step {step}; the state before it is saved. What helps: a longer "
        "optim.warmup, a lower optim.lr, a smaller optim.clip, dtype=float32; "
        "--allow_config_change goes on from here with another config"
    )
