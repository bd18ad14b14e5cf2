"""The kernels of a run: those that compute here what their definitions say, at its own shapes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ibot_jax.kernels.check import compare
from ibot_jax.kernels.choice import Kernels
from ibot_jax.parallel.agreement import gather

_WORDS = 160  # characters of a reason that processes tell each other


@dataclasses.dataclass(frozen=True)
class Proven:
    """A step, and who computes it.

    Attributes:
      step: jitted; it is traced and not compiled.
      kernels: that it may take.
      used: names of those that it takes; XLA computes the rest.
      refused: by name of a kernel that some process found wanting, the reason.
    """

    step: jax.stages.Wrapped
    kernels: Kernels
    used: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        """Returns in words who computes."""
        if not self.used:
            return "xla"
        return f"{', '.join(self.used)}; they compute here what XLA does"

    def warnings(self) -> dict[str, str]:
        """Returns by name what is to be said of the refused ones."""
        return {
            name: f"the kernel {name} is not taken, for {reason}; XLA computes its part"
            for name, reason in self.refused.items()
        }


def prove(
    make_step: Callable[[Kernels], jax.stages.Wrapped],
    arguments: Sequence[tuple[Any, ...]],
    kernels: Kernels,
) -> Proven:
    """Returns a step with those kernels that agree with their definitions on every process.

    Each kernel that the step takes is compared in each of its uses, before the step is compiled.

    Args:
      make_step: returns the jitted step that may take some kernels.
      arguments: shapes of the step's, for each size of views.
      kernels: that may be taken, as far as they agree.
    """
    checked, refused = set(), {}
    while True:
        uses = []
        step = make_step(dataclasses.replace(kernels, uses=uses))
        if not kernels.names:
            return Proven(step, kernels, (), refused)
        failed = None
        try:
            for of_size in arguments:
                step.trace(*of_size)  # which its first call does not repeat
        except Exception as error:  # perhaps of a kernel, which then fails alone, too
            failed = error
        uses = dict.fromkeys(uses)
        own = {}
        for name, spec in uses:
            if (name, spec) not in checked and name not in own:
                checked.add((name, spec))
                if problem := compare(name, spec, kernels.device).problem:
                    own[name] = problem
        found = _of_all_processes(own)
        if not found:
            if failed:
                raise failed
            used = tuple(sorted({name for name, _ in uses}))
            return Proven(step, kernels, used, refused)
        refused |= found
        kernels = kernels.without(*found)


def _of_all_processes(refused: dict[str, str]) -> dict[str, str]:
    lines = [f"{name}\t{reason[:_WORDS]}" for name, reason in refused.items()]
    told = b"\n".join(gather("\n".join(lines).encode())).decode(errors="replace")
    return dict(line.split("\t", 1) for line in reversed(told.splitlines()) if "\t" in line)
