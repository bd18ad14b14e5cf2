"""The loop on the host: batches in; metrics, tests and checkpoints out."""

import collections
import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from ibot_jax import sharding
from ibot_jax.agreement import first_says, in_step
from ibot_jax.checkpoint import Checkpoints
from ibot_jax.config import Plan
from ibot_jax.config_check import flatten
from ibot_jax.errors import SaveError, TrainingError
from ibot_jax.finetune.check import PERIODS
from ibot_jax.finetune.step import FinetuneState, TrainStep
from ibot_jax.metrics import Reporter
from ibot_jax.optimizer import Params
from ibot_jax.signals import caught_signals
from ibot_jax.watchdog import Watchdog

# How many steps the host may run ahead of what it has looked at: enough to keep the device busy.
_LAG = 2


class Loop:
    """Trains a classifier, and tests it now and then."""

    def __init__(
        self,
        config: ConfigDict,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        reporter: Reporter,
        train_step: TrainStep,
        test: Callable[[Params], tuple[float, float]],
    ):
        """Prepares it.

        Args:
          config: of the fine-tuning.
          plan: its length.
          mesh: the devices.
          checkpoints: of the run.
          reporter: of the run.
          train_step: pure, see `step.make_train_step`.
          test: from parameters to top-1 and top-5 accuracy in percent.
        """
        self._plan = plan
        self._mesh = mesh
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._test_params = test
        self._watchdog = Watchdog(config.data.stall_seconds)
        layout = sharding.replicated(mesh)
        self._train_step = jax.jit(train_step, donate_argnums=0, out_shardings=layout)
        # Computed, not put there: nothing can be put on the devices of other processes.
        self._key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=layout)()
        self._pending = collections.deque()  # (step, metrics on the device), not yet looked at
        flat = flatten(config)
        self._periods = {key: plan.steps(key, flat[key]) for key in PERIODS}

    def run(self, state: FinetuneState, batches: Iterator[dict[str, np.ndarray]]) -> int:
        """Runs to the end of the batches, or to a signal, whose number it returns, else 0."""
        step = int(state.step)

        def check() -> int:
            self._checkpoints.check()
            self._reporter.check()
            return caught[0] if caught else 0

        def watch(what: str) -> contextlib.AbstractContextManager:
            return self._watchdog.waiting(f"{what}; steps done: {step:,}")

        with caught_signals() as caught:
            due = step and self._due("test_every", step)
            if due and not first_says(self._reporter.evaluated):
                self._test(step, state)
            try:
                for batch, stop in in_step(batches, check, watch):
                    step += 1
                    batch = sharding.to_global(batch, self._mesh)
                    state, metrics = self._train_step(state, batch, self._key)
                    self._pending.append((step, metrics))
                    self._look(_LAG)
                    # A run that is told to stop has no time for it; the resumed one makes up.
                    due = self._due("test_every", step) and not stop
                    top1 = self._test(step, state) if due else None
                    if top1 is not None or stop or self._due("checkpoint.every", step):
                        self._save(state, top1)
                    if stop:
                        return stop
            except SaveError:
                raise
            except TrainingError:
                with contextlib.suppress(TrainingError):  # once not finite, a run remains so
                    self._look(0)
                self._pending.clear()
                self._save(state, None)
                self._checkpoints.wait()
                raise
        return 0

    def _due(self, key: str, step: int) -> bool:
        return step % self._periods[key] == 0 or step == self._plan.total_steps

    def _test(self, step: int, state: FinetuneState) -> float:
        """Tests, reports, and returns the top-1 accuracy in percent."""
        self._look(0)
        with self._reporter.paused():
            top1, top5 = self._test_params(state.params)
        self._reporter.test(step, top1, top5)
        return top1

    def _save(self, state: FinetuneState, top1: float | None) -> None:
        self._look(0)
        self._reporter.flush()  # before: the lines of a step that is saved are never lost
        waiting = self._watchdog.waiting("storage: the save before, or that of another process")
        with self._reporter.paused(), waiting:
            self._checkpoints.save(state, test_top1=top1)

    def _look(self, leave: int) -> None:
        """Looks at the metrics of all steps but the last few, which waits for the device."""
        while len(self._pending) > leave:
            step, metrics = self._pending.popleft()
            with self._watchdog.waiting(f"step {step:,} to return: this or another host is stuck"):
                finite = bool(metrics.pop("finite"))
            if not finite:
                raise TrainingError(
                    f"the loss or its gradients were not finite at step {step}; the state before "
                    "it is saved. What helps: a lower optim.lr, a longer optim.warmup, "
                    "--dtype=float32; --allow_config_change goes on from here with another config"
                )
            self._reporter.step_done(step, metrics)
            if self._due("log_every", step):
                self._reporter.train(step, {name: float(x) for name, x in metrics.items()})
