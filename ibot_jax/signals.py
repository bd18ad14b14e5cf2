"""SIGINT, SIGTERM and SIGHUP: what a program does when it is told to end.

It ends with status 128 + the signal's number: 130, 143, 129. When, depends on what it has to lose:

    while it starts (`end_at_once`)     at once: it has begun nothing
    in a command (`raised`)             as an exception, so that what is half written is removed
    while it trains (`caught_signals`)  once its state is saved

A SIGHUP that is ignored when the program starts, as under nohup, is ignored all along.
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
_TIDYING_SECONDS = 5

_caught: list[int] = []  # of the innermost `caught_signals`


class Interrupted(BaseException):
    """A signal; no error, so that nothing takes it for one.

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


def end_at_once() -> None:
    """From now on a signal ends the program in one line; to be called before slow imports."""
    _handle(lambda number, frame: _leave(number))


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises the first signal as `Interrupted`; another one, or some seconds, end at once.

    Raises:
      Interrupted: whatever the signal's exception has become on its way, as in imports.
    """
    told: list[int] = []
    tidying, over = threading.Event(), threading.Event()

    def handler(number, frame):
        del frame
        if told:
            _leave(told[0])
        told.append(number)
        tidying.set()
        raise Interrupted(number)

    def limit():  # an exception may be lost in a callback, or wait for what never ends
        tidying.wait()
        if not over.wait(_TIDYING_SECONDS):
            _leave(told[0])

    threading.Thread(target=limit, daemon=True).start()
    try:
        with _handled(handler):
            yield
    except BaseException as error:
        if told and not isinstance(error, Interrupted):
            raise Interrupted(told[0]) from error
        raise
    finally:
        over.set()
        tidying.set()


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


def _leave(number: int) -> NoReturn:
    _say(in_words(number))
    os._exit(128 + number)


def _say(text: str) -> None:
    """Writes to stderr, past its buffer, which the interrupted code may be writing to."""
    below = "\n" if os.isatty(2) else ""  # a progress bar
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{below}{text}\n".encode())
