"""The loop of `ibot_jax.runs.loop`, as fine-tuning needs it: it tests a classifier now and then."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from ibot_jax.config.plan import Plan
from ibot_jax.errors import TrainingError
from ibot_jax.finetune.step import FinetuneState, Metrics
from ibot_jax.optim.optimizer import Params
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.runs.lock import Lock
from ibot_jax.runs.loop import Loop, make_watchdog
from ibot_jax.runs.metrics import Reporter


class FinetuneLoop(Loop):
    """Trains a classifier, and tests it now and then."""

    figure = "test_top1"

    def __init__(
        self,
        config: ConfigDict,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        reporter: Reporter,
        test: Callable[[Params], tuple[float, float]],
        lock: Lock,
    ):
        """Prepares it.

        Args:
          config: of the fine-tuning.
          plan: its length.
          mesh: the devices.
          checkpoints: of the run.
          reporter: of the run.
          test: from parameters to top-1 and top-5 accuracy in percent.
          lock: of the run's workdir.
        """
        super().__init__(
            plan,
            mesh,
            checkpoints,
            reporter,
            lock,
            make_watchdog(config.data.stall_seconds),
            log_every=plan.steps("log_every", config.log_every),
            save_every=plan.steps("checkpoint.every", config.checkpoint.every),
            evaluate_every=plan.steps("test_every", config.test_every),
        )
        self._test = test

    def _evaluation_due(self, step: int) -> bool:
        return step > 0 and super()._evaluation_due(step)  # a new classifier has learned nothing

    def _measure(self, state: FinetuneState) -> dict[str, float]:
        top1, top5 = self._test(state.params)
        return {"test_top1": top1, "test_top5": top5}

    def _report_measured(self, step: int, values: dict[str, float]) -> None:
        self._reporter.test(step, values["test_top1"], values["test_top5"])

    def _not_finite(self, step: int, metrics: Metrics) -> TrainingError:
        return TrainingError(
            f"the loss or its gradients were not finite at step {step}; the state before it is "
            "saved. What helps: a lower optim.lr, a longer optim.warmup, --dtype=float32; "
            "--allow_config_change goes on from here with another config"
        )
