"""What is recorded of a run, and when: as soon as its first step has come back.

A start that fails before, for whatever reason, leaves nothing that refuses the corrected command.
"""

import json
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.config.flat import flatten
from ibot_jax.data.sources.identity import Identity
from ibot_jax.runs.metrics import Reporter
from ibot_jax.weights.history import record_start

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
    workdir: epath.Path, config: ConfigDict, data: Identity, step: int, reporter: Reporter
) -> None:
    """Records under which config and on which images a run goes on, and reports other images.

    The first process does it.

    Args:
      workdir: of the run.
      config: of the run.
      data: on which it trains.
      step: from which it goes on.
      reporter: of the run.
    """
    if jax.process_index() == 0:
        flat = json.loads(json.dumps(flatten(config)))  # tuples become lists, as in the file
        before = record_start(workdir, flat, data, step)
        if before is not None:
            reporter.data_changed(step, before["images"], data["images"])
