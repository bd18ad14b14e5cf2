"""The loop on the host, whatever is trained: batches in; metrics, evaluations, checkpoints out.

Whatever ends it, the last good state is saved before, if that can be done: by all processes, or by
none.
"""

import abc
import collections
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ibot_jax.config.plan import Plan
from ibot_jax.data.pipeline import Batch
from ibot_jax.errors import SaveError, TrainingError, UserError, in_words, located
from ibot_jax.methods.step import Metrics
from ibot_jax.parallel import processes, signals
from ibot_jax.parallel.agreement import all_fail, first_says, in_step
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.rows import to_global
from ibot_jax.parallel.signals import Interrupted, caught_signals
from ibot_jax.parallel.watchdog import Watchdog
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.runs.lock import Lock
from ibot_jax.runs.reporting.reporter import Reporter

State = Any  # a struct of arrays with `step` and `finite`

# How many steps the host may run ahead of what it has looked at: enough to keep the device busy.
_LAG = 2


def make_watchdog(seconds: float) -> Watchdog:
    """Returns a watchdog that calls this process by its number, if it is one of several."""
    return Watchdog(seconds, processes.name())


class Loop(abc.ABC):
    """The loop and what it needs all along; a kind of training adds what is its own.

    Attributes:
      figure: of what is measured, the one by which the best checkpoint is chosen.
    """

    figure: str

    def __init__(
        self,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        reporter: Reporter,
        lock: Lock,
        watchdog: Watchdog,
        *,
        log_every: int,
        save_every: int,
        evaluate_every: int,
    ):
        """Prepares it.

        Args:
          plan: the run's length.
          mesh: the devices.
          checkpoints: of the run.
          reporter: of the run.
          lock: of the run's workdir.
          watchdog: is told of every wait.
          log_every: steps between reports; as the next two, at the last step besides.
          save_every: steps between checkpoints; a state is also saved before it is evaluated.
          evaluate_every: steps between evaluations; 0 for none.
        """
        self._plan = plan
        self._mesh = mesh
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._lock = lock
        self._watchdog = watchdog
        self._log_every = log_every
        self._save_every = save_every
        self._evaluate_every = evaluate_every
        self._pending = collections.deque()  # (step, metrics on the device), not yet looked at

    def run(
        self,
        state: State,
        batches: Iterator[Batch],
        train_step: Callable[[State, Batch, jax.Array], tuple[State, Metrics]],
        seed: int,
    ) -> int:
        """Runs to the end of the batches, or to a signal, and saves all.

        Args:
          state: from which it goes on; donated.
          batches: this process's.
          train_step: compiled, (state, global batch, key) to the next state and metrics, among them
            `finite`.
          seed: of the key, the same in every step.

        Returns:
          The number of the signal, else 0.

        Raises:
          Exception: whatever keeps the run from going on, with a note of what became of the state.
        """
        layout = replicated(self._mesh)
        # Computed, not put there: nothing can be put on the devices of other processes.
        key = jax.jit(lambda: jax.random.key(seed), out_shardings=layout)()
        with caught_signals():  # until all is on the disk
            signum = self._run(state, batches, lambda state, batch: train_step(state, batch, key))
            self._checkpoints.close()
        if signum:
            latest = self._checkpoints.latest_step()
            ended = (
                "stopped before the first step; the same command starts anew"
                if latest is None
                else f"stopped and saved at step {latest} of {self._plan.total_steps}; the same "
                "command resumes"
            )
            self._reporter.say(f"{signal.Signals(signum).name}: {ended}")
        return signum

    @abc.abstractmethod
    def _measure(self, state: State) -> dict[str, float]:
        """Evaluates; returns what was measured, by name."""

    @abc.abstractmethod
    def _report_measured(self, step: int, values: dict[str, float]) -> None:
        """Reports what `_measure` returned."""

    @abc.abstractmethod
    def _not_finite(self, step: int, metrics: Metrics) -> TrainingError:
        """Returns the error that says what was not finite and what helps."""

    def _report(self, step: int, values: dict[str, float]) -> None:
        """Reports the metrics of a step."""
        self._reporter.train(step, values)

    def _run(self, state: State, batches: Iterator[Batch], train_step: Callable) -> int:
        step = int(state.step)

        def check() -> int:
            self._checkpoints.check()
            self._reporter.check()
            self._lock.check()
            return signals.pending()

        def watch(what: str) -> contextlib.AbstractContextManager:
            return self._watchdog.waiting(f"{what}; steps done: {step:,}")

        try:
            if self._evaluation_due(step) and not first_says(self._reporter.evaluated):
                self._evaluate(step, state)
            for batch, stop in in_step(self._reporter.goodput.fed(batches), check, watch):
                with located(f"in step {step + 1:,}"):
                    state, metrics = train_step(state, to_global(batch, self._mesh))
                step += 1
                self._reporter.goodput.step_given(metrics["finite"])
                self._pending.append((step, metrics))
                self._look(leave=_LAG)
                # A run that is told to stop has no time for it; the resumed one makes up.
                due = self._evaluation_due(step) and not stop
                if due or stop or self._due(self._save_every, step):
                    self._save(state)
                if due:
                    self._evaluate(step, state)
                if stop:
                    return stop
        except Interrupted as told:  # in an evaluation
            if step:
                self._save(state)
            return told.number
        except SaveError:
            raise
        except Exception as error:
            error.add_note(self._rescue(step, state))
            if isinstance(error, UserError):  # what was right when the run began
                raise TrainingError("; ".join([str(error), *error.__notes__])) from error
            raise
        return 0

    def _rescue(self, step: int, state: State) -> str:
        """Saves the last good state after a failure; returns what became of it, in words.

        Before the first step there is nothing to save, and a start that failed leaves nothing.
        """
        with contextlib.suppress(Exception):  # once not finite, a run remains so
            self._look()
        self._pending.clear()
        with contextlib.suppress(Exception):
            self._reporter.flush()
        if not step:
            return "nothing is saved before the first step"
        try:
            if any(array.is_deleted() for array in jax.tree.leaves(state)):
                raise TrainingError("the failed step was given its memory")
            if not all_fail(f"step {step}"):
                raise TrainingError("not all processes failed")
            self._checkpoints.save(state)
            self._checkpoints.wait()
        except Exception as failure:
            latest = self._checkpoints.latest_step()
            kept = "none is" if latest is None else f"that of step {latest} is"
            return f"its state could not be saved ({in_words(failure)}), {kept}"
        return f"saved at step {int(state.step):,}"

    def _due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self._plan.total_steps

    def _evaluation_due(self, step: int) -> bool:
        return bool(self._evaluate_every) and self._due(self._evaluate_every, step)

    def _evaluate(self, step: int, state: State) -> None:
        self._look()
        with self._reporter.paused("evaluation"):
            with located(f"while step {step:,} was evaluated"):
                values = self._measure(state)
            if self.figure in values and self._checkpoints.latest_step() == step:
                self._checkpoints.record(step, **{self.figure: values[self.figure]})
            self._report_measured(step, values)

    def _save(self, state: State) -> None:
        self._look()
        self._reporter.flush()  # before: the lines of a step that is saved are never lost
        waiting = self._watchdog.waiting("storage: the save before, or that of another process")
        with self._reporter.paused("save"), waiting:
            self._checkpoints.save(state)

    def _look(self, leave: int = 0) -> None:
        """Looks at the metrics of all steps but the last few, which waits for the device."""
        while len(self._pending) > leave:
            step, metrics = self._pending.popleft()
            what = f"step {step:,} to return: this or another host may be stuck"
            with self._watchdog.waiting(what):
                finite = bool(metrics["finite"])
            if not finite:
                raise self._not_finite(step, metrics)
            self._reporter.step_done(step, metrics)
            if self._due(self._log_every, step):
                values = {name: float(x) for name, x in metrics.items() if name != "finite"}
                self._report(step, values)
