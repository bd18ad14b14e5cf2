"""Progress on a terminal, shown by the first of several processes, and text around it."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_REFRESH_SECONDS = 1.0


def is_shown() -> bool:
    """Returns whether this process shows bars: the first one does, on a terminal."""
    from ibot_jax.parallel.processes import is_first  # and JAX, not needed to print a mistake

    return sys.stderr.isatty() and is_first()


def progress(items: Iterable[T], total: int, what: str, *, start: int = 0) -> Iterator[T]:
    """Yields items, and shows how many of `total` there were, with `start` done before them."""
    yield from tqdm(
        items, total=total, initial=start, desc=what, disable=not is_shown(), leave=False
    )


def write_line(text: str, file: TextIO) -> None:
    """Writes lines to the screen, above the bar if one is there."""
    tqdm.write(text, file=file)


class ProgressBar:
    """A bar that fits 80 columns and is fresh each second, however long a step takes."""

    def __init__(self, total_steps: int, start_step: int):
        """Draws it on stderr, a terminal."""
        size = shutil.get_terminal_size()  # where tqdm finds none it would draw nothing
        self._refreshed = 0.0
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            ncols=size.columns,
            nrows=size.lines,
            # What is last is what a narrow terminal cuts.
            bar_format="{desc} {percentage:3.0f}%{bar}{n}/{total} [{elapsed}<{remaining}]",
        )
        self._closed = threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()

    def update(self, step: int, text: Callable[[], str]) -> None:
        """Notes that a step is done; `text` says how the run does, if it is time to say it."""
        self._bar.update(step - self._bar.n)
        if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._bar.set_description_str(text())

    def close(self) -> None:
        """Leaves it as it is."""
        self._closed.set()
        self._bar.close()

    def _tick(self) -> None:
        """Draws it anew while a step, an evaluation or a compilation takes its time."""
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            while not self._closed.wait(_REFRESH_SECONDS):
                self._bar.refresh()
