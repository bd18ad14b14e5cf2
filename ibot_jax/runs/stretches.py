"""A run's stretches: where other parameters are frozen, another program is the step."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any


def in_turn(
    programs: Mapping[int, Callable[..., Any]],
    step: int,
    compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Callable[..., Any]:
    """Returns a function whose calls are those of the program of their step.

    Args:
      programs: by the step from which on one is called; the first is that of step 0.
      step: of the first call; each call is one step more.
      compiling: around the first call of a program, which compiles it.
    """
    compiled = set()

    def called(*arguments: Any) -> Any:
        nonlocal step
        start = max(start for start in programs if start <= step)
        step += 1
        with contextlib.nullcontext() if start in compiled else compiling():
            compiled.add(start)
            return programs[start](*arguments)

    return called
