"""A run's stretches: where other parameters are frozen, another program is the step.

So it is where views have another size, but those programs JAX makes by itself, of one function.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any


def in_turn(
    programs: Mapping[int, Callable[..., Any]],
    step: int,
    compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    size: Callable[[int], int] = lambda step: 0,
) -> Callable[..., Any]:
    """Returns a function whose calls are those of the program of their step.

    Args:
      programs: by the step from which on one is called; the first is that of step 0.
      step: of the first call; each call is one step more.
      compiling: around the first call of a program with a size of views, which compiles it.
      size: which of its sizes the views of a step have.
    """
    compiled = set()

    def called(*arguments: Any) -> Any:
        nonlocal step
        start = max(start for start in programs if start <= step)
        kind = start, size(step)
        step += 1
        with contextlib.nullcontext() if kind in compiled else compiling():
            compiled.add(kind)
            return programs[start](*arguments)

    return called
