"""Which sizes the views of a batch have, where a run has several."""

from collections.abc import Sequence

import numpy as np

from ibot_jax.config.high_res import late_views
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.data.make.examples import SIZES, stream


class SizesByStep:
    """The sizes of views by step, a function of (seed, step) alone.

    Attributes:
      views: the section `data` for each size; the first is the config's, the others are those of
        its section `high_res`.
    """

    def __init__(self, seed: int, data: Section, high_res: Section | None, plan: Plan):
        """Draws a size for each step of the last part of a run, by `high_res.shares`."""
        self.views, self._start = (data,), plan.total_steps
        self._late = np.zeros(0, np.uint8)
        if high_res is not None and high_res.last:
            self.views += late_views(high_res, data)
            self._start -= plan.steps("high_res.last", high_res.last)
            draws = stream(seed, 0, 0, SIZES).random(plan.total_steps)[self._start :]
            bounds = np.cumsum(high_res.shares)
            late = 1 + np.searchsorted(bounds / bounds[-1], draws, side="right")
            self._late = late.astype(np.uint8)

    def number(self, step: int) -> int:
        """Returns which of `views` a step has."""
        return 0 if step < self._start else int(self._late[step - self._start])

    def steps(self, number: int, first: int) -> Sequence[int]:
        """Returns the steps from `first` on that have one of `views`, in their order."""
        if not number:
            return range(first, max(self._start, first))
        found = self._start + np.flatnonzero(self._late == number)
        return found[found >= first]

    def numbers(self, first: int = 0) -> list[int]:
        """Returns which of `views` the steps from `first` on have, in order of appearance."""
        used = [number for number in range(len(self.views)) if len(self.steps(number, first))]
        return sorted(used, key=lambda number: self.steps(number, first)[0])
