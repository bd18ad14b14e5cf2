"""SIGINT, SIGTERM and SIGHUP: what a program does when it is told to end.

It ends with status 128 + the signal's number: 130, 143, 129. When, depends on what it has to lose:

    while it starts, and in a command   at once (`end_at_once`, `ending`); what it has half written
                                        is removed before (`before_end`)
    while it trains                     once its state is saved (`caught_signals`)

At once means: without an exception. One that comes up just anywhere, in an import or in a callback
of a library, may be lost there, or become a crash. A SIGHUP that is ignored when the program
starts, as under nohup, is ignored all along.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Terminals and launchers may pass on one Ctrl-C several times; so late it is meant as a second one.
AGAIN_SECONDS = 5
_DEAF_SECONDS = 1.0  # after which the main thread is taken to be in a library, say its compiler

_before_end: list[Callable[[], None]] = []
_caught: list[int] | None = None  # of the innermost `caught_signals`
_noted = threading.Event()  # it has heard a signal, and acts on it, maybe at once


class Interrupted(BaseException):
    """A signal that all processes act on at the same place; no error, so nothing takes it for one.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(in_words(number))
        self.number = number


def in_words(number: int) -> str:
    """Returns what is said of the end by a signal."""
    if number == signal.SIGINT:
        return "interrupted"
    return f"ended by {signal.Signals(number).name}"


def status_of(number: int) -> int:
    """Returns the exit status of a program that a signal has ended: 130, 143 or 129."""
    return 128 + number


def end_at_once() -> None:
    """From now on a signal ends the program in one line; to be called before slow imports."""
    _handle(lambda number, frame: _leave(number))


@contextlib.contextmanager
def ending(interrupted: str = "interrupted") -> Iterator[None]:
    """Has a signal end the program in one line, even while the main thread hears of none.

    Args:
      interrupted: what is said at Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    over = threading.Event()

    def leave(number: int) -> NoReturn:
        over.set()
        _leave(number, interrupted if number == signal.SIGINT else "")

    heard, tell = os.pipe()
    os.set_blocking(tell, False)

    def listen() -> None:
        while 0 not in (numbers := os.read(heard, 1024)):
            told = [number for number in numbers if number in SIGNALS]
            if told and not over.wait(_DEAF_SECONDS) and not _noted.is_set() and _caught is None:
                leave(told[0])
            _noted.clear()
        os.close(heard)

    _noted.clear()
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    try:
        with _handled(lambda number, frame: leave(number)):
            yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.write(tell, b"\0")
        thread.join()
        os.close(tell)


@contextlib.contextmanager
def before_end(action: Callable[[], None]) -> Iterator[None]:
    """Has a signal that ends the program within the block call an action first."""
    _before_end.append(action)
    try:
        yield
    finally:
        _before_end.remove(action)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collects signals, to be acted on where the state can be saved.

    Ctrl-C, `AGAIN_SECONDS` or more after the first signal, ends the program at once.
    """
    global _caught
    caught: list[int] = []
    since: list[float] = []

    def handler(number, frame):
        del frame
        if not caught:
            since.append(time.monotonic())
            name = signal.Signals(number).name
            _say(f"{name}: the run saves and ends; Ctrl-C after {AGAIN_SECONDS} s ends it without")
        elif number == signal.SIGINT and time.monotonic() - since[0] >= AGAIN_SECONDS:
            _leave(number)
        caught.append(number)
        _noted.set()

    outer, _caught = _caught, caught
    try:
        with _handled(handler):
            yield caught
    finally:
        _caught = outer


def pending() -> int:
    """Returns the first signal that `caught_signals` has collected, 0 if there is none."""
    return _caught[0] if _caught else 0


@contextlib.contextmanager
def _handled(handler: Callable) -> Iterator[None]:
    before = _handle(handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _handle(handler: Callable) -> dict[int, object]:
    """Sets the handler of all signals; returns those before, none outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [n for n in SIGNALS if (n, signal.getsignal(n)) != (signal.SIGHUP, signal.SIG_IGN)]
    return {number: signal.signal(number, handler) for number in heard}


def _leave(number: int, text: str = "") -> NoReturn:
    for action in reversed(_before_end):
        with contextlib.suppress(Exception):
            action()
    _say(text or in_words(number))
    os._exit(status_of(number))


def _say(text: str) -> None:
    """Writes to stderr, past its buffer, which the interrupted code may be writing to."""
    below = "\n" if os.isatty(2) else ""  # a progress bar
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{below}{text}\n".encode())
