"""What the time of a run goes into: steps, and all that keeps the device waiting."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")

# By name of what the time goes into, in words.
WORDS = {
    "step": "steps",
    "input": "waiting for input",
    "compile": "compiling",
    "evaluation": "evaluating",
    "save": "saving",
}


class Goodput:
    """Shares of the time since it was made; each moment belongs to one of `WORDS`.

    The host runs ahead of the device, so that a wait for a batch costs nothing as long as the
    device still computes. What counts as `input` is the part of it in which the device has
    finished all steps that it was given; so a thread waits for the result of each. The rest is
    `step`, but for what is named otherwise.
    """

    def __init__(self) -> None:
        """Begins now."""
        self._began = time.monotonic()
        self._seconds = dict.fromkeys(WORDS, 0.0)
        self.note()
        self._given = 0
        self._finished = 0, self._began  # how many steps, and when
        self._results: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._watch, daemon=True).start()

    def step_given(self, result: Any) -> None:
        """Notes that the device was given a step, of which this is a result."""
        self._given += 1
        self._results.put(result)

    @contextlib.contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Counts the time within as that of `what`, during which no batch is waited for."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - start

    def fed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields batches, and counts the waits for them as far as the device waits, too."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                end = time.monotonic()
                number, at = self._finished
                if number == self._given:
                    self._seconds["input"] += end - max(start, at)
            yield batch

    def note(self) -> None:
        """Lets `shares` be of the time from now on."""
        self._noted, self._before = time.monotonic(), dict(self._seconds)

    def shares(self) -> dict[str, float]:
        """Returns the shares of the time since the last note, from 0 to 1."""
        spent = {what: self._seconds[what] - before for what, before in self._before.items()}
        return _shares(spent, time.monotonic() - self._noted)

    def __str__(self) -> str:
        """Returns the shares since the beginning in words, the largest first."""
        shares = _shares(self._seconds, time.monotonic() - self._began)
        largest = sorted(shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{WORDS[what]} {100 * share:.1f} %" for what, share in largest)

    def close(self) -> None:
        """Ends its thread."""
        self._results.put(None)

    def _watch(self) -> None:
        for number, result in enumerate(iter(self._results.get, None), start=1):
            with contextlib.suppress(Exception):  # whoever looks at the step meets it
                jax.block_until_ready(result)
            self._finished = number, time.monotonic()


def _shares(spent: dict[str, float], seconds: float) -> dict[str, float]:
    others = {what: spent[what] / max(seconds, 1e-9) for what in WORDS if what != "step"}
    return {"step": max(1 - sum(others.values()), 0.0), **others}
