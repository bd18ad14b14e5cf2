"""Progress, shown by the first of several processes, and text around it.

On a terminal it is a bar, in a notebook a widget, with rate and time left, fresh each second
however long an item takes; where there is neither, as in a log, a line a minute.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

_REFRESH_SECONDS = 1.0
_LINE_SECONDS = 60.0
_IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


def is_shown() -> bool:
    """Returns whether this process shows bars: the first does, on a terminal or in a notebook."""
    return (_IN_NOTEBOOK or sys.stderr.isatty()) and _is_first()


def progress(items: Iterable[T], total: int, what: str, *, start: int = 0) -> Iterator[T]:
    """Yields items, and shows how many of `total` there were, with `start` done before them."""
    with _shown(what, total, start) as done:
        for item in items:
            yield item
            done()


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows for how long something has gone on that has no items, until the block is left."""
    with _shown(what, None, 0):
        yield


def write_line(text: str, file: TextIO) -> None:
    """Writes lines to the screen, above the bar if one is there."""
    tqdm.write(text, file=file)


def clock(seconds: float) -> str:
    """Returns a length of time as 0:02:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


class ProgressBar:
    """The bar of a run; it fits 80 columns."""

    def __init__(self, total_steps: int, start_step: int):
        """Draws it."""
        size = shutil.get_terminal_size()  # where tqdm finds none it would draw nothing
        self._refreshed = 0.0
        self._text = ""
        self._other: tuple[str, float] | None = None
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            **({} if _IN_NOTEBOOK else {"ncols": size.columns, "nrows": size.lines}),
            # What is last is what a narrow terminal cuts.
            bar_format="{desc} {percentage:3.0f}%{bar}{n}/{total} [{elapsed}<{remaining}]",
        )
        self._ticking = contextlib.ExitStack()
        self._ticking.enter_context(_every(_REFRESH_SECONDS, self._tick))

    def update(self, step: int, text: Callable[[], str]) -> None:
        """Notes that a step is done; `text` says how the run does, if it is time to say it."""
        self._bar.update(step - self._bar.n)
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._text = text()
            self._bar.set_description_str(self._text)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Shows in place of how the run does what else goes on, and for how long."""
        self._other = what, time.monotonic()
        self._tick()
        try:
            yield
        finally:
            self._other = None
            self._bar.set_description_str(self._text)

    def close(self) -> None:
        """Leaves it as it is."""
        self._ticking.close()
        self._bar.close()

    def _tick(self) -> None:
        """Draws it anew while a step, an evaluation or a compilation takes its time."""
        if (other := self._other) is None:
            self._bar.refresh()
        else:
            what, since = other
            self._bar.set_description_str(f"{what} {clock(time.monotonic() - since)}")


def _is_first() -> bool:
    if "jax" not in sys.modules:  # and so is none of several
        return True
    from ibot_jax.parallel.processes import is_first

    return is_first()


@contextlib.contextmanager
def _shown(what: str, total: int | None, start: int) -> Iterator[Callable[[], object]]:
    """Shows a bar or lines until the block is left; yields what is called after each item."""
    if is_shown():
        plain = "{desc} {elapsed}" if total is None else None
        bar = tqdm(desc=what, total=total, initial=start, leave=False, bar_format=plain)
        with contextlib.closing(bar), _every(_REFRESH_SECONDS, bar.refresh):
            yield bar.update
        return
    began, number = time.monotonic(), start

    def done() -> None:
        nonlocal number
        number += 1

    def tell() -> None:
        if _is_first():  # not asked before, for that finds JAX's devices
            text = _line(what, total, number, number - start, time.monotonic() - began)
            write_line(text, sys.stderr)

    with _every(_LINE_SECONDS, tell):
        yield done


def _line(what: str, total: int | None, number: int, new: int, seconds: float) -> str:
    """Returns how far something is, for a log."""
    if total is None:
        return f"{what}: {clock(seconds)} so far"
    text = f"{what}: {number:,} of {total:,}"
    if not new:
        return f"{text}, {clock(seconds)} so far"
    return f"{text}, {new / seconds:.3g}/s, {clock((total - number) * seconds / new)} left"


@contextlib.contextmanager
def _every(seconds: float, tell: Callable[[], object]) -> Iterator[None]:
    """Calls a function again and again, in a thread, until the block is left."""
    over = threading.Event()

    def tick() -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            while not over.wait(seconds):
                tell()

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        over.set()
