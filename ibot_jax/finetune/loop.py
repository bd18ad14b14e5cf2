"""The loop of `ibot_jax.runs.loop`, as fine-tuning needs it: it tests a classifier now and then."""

from collections.abc import Callable

from ibot_jax.errors import TrainingError
from ibot_jax.finetune.step import FinetuneState, Metrics
from ibot_jax.models.parameters import Params
from ibot_jax.runs.loop import Loop


class FinetuneLoop(Loop):
    """Trains a classifier, and tests it now and then."""

    figure = "test_top1"

    def __init__(self, *args, test: Callable[[Params], tuple[float, float]], **options):
        """Prepares it.

        Args:
          *args: of `Loop`.
          test: from parameters to top-1 and top-5 accuracy in percent.
          **options: of `Loop`.
        """
        super().__init__(*args, **options)
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
