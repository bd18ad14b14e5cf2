"""Ctrl-C and SIGTERM, noted to be acted on where the state can be saved."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; the second one of a kind kills at once."""
    caught = []

    def handler(signum, frame):
        del frame
        caught.append(signum)
        signal.signal(signum, signal.SIG_DFL)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
