"""What is recorded of a run, and when: as soon as its first step has come back.

A start that fails before, for whatever reason, leaves nothing that refuses the corrected command.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from etils import epath

from ibot_jax.config.flat import Flat
from ibot_jax.data.sources.identity import Identity
from ibot_jax.parallel.processes import is_first
from ibot_jax.runs.reporting.reporter import Reporter
from ibot_jax.weights.history import record_start, record_weights

P = ParamSpec("P")
T = TypeVar("T")


def after_first(function: Callable[P, T], then: Callable[[], None]) -> Callable[P, T]:
    """Returns the function, whose first call is followed by one of `then`, if it returns."""
    pending = [then]

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        result = function(*args, **kwargs)
        if pending:
            pending.pop()()
        return result

    return called


def record_beginning(
    workdir: epath.Path,
    config: Flat,
    data: Identity,
    step: int,
    reporter: Reporter,
    start: dict[str, Any] | None = None,
) -> None:
    """Records under which config and on which images a run goes on, and reports other images.

    The first process does it.

    Args:
      workdir: of the run.
      config: of the run, as `flat.as_json` has it.
      data: on which it trains.
      step: from which it goes on.
      reporter: of the run.
      start: which weights a new run starts from, if any.
    """
    if is_first():
        if not step:
            record_weights(workdir, start)
        before = record_start(workdir, config, data, step)
        if before is not None:
            reporter.data_changed(step, before["images"], data["images"])
