"""Says what a process waits for, once that takes long: a stuck host can then be found by its name.

It ends nothing: whoever reads it, person or scheduler, decides.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

# Marks a wait for what the text names; `contextlib.nullcontext` is the one that nobody watches.
Watch = Callable[[str], AbstractContextManager]

_log = logging.getLogger(__name__)


class Watchdog:
    """Warns from a thread of its own, while the thread that it watches is blocked."""

    def __init__(self, seconds: float, name: str = ""):
        """Watches nothing yet.

        Args:
          seconds: of one wait before the first warning; 0 never warns.
          name: how warnings call this process besides its host's name.
        """
        self._seconds = seconds
        self._who = " on ".join(filter(None, [name, socket.gethostname()]))

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Warns until the block is left, each time after twice the wait of the time before.

        Args:
          what: what the block waits for.
        """
        if not self._seconds:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._warn, args=(what, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _warn(self, what: str, over: threading.Event) -> None:
        start = time.monotonic()
        pause = self._seconds
        while not over.wait(pause):
            waited = time.monotonic() - start
            _log.warning("%s has waited %.0f s for %s", self._who, waited, what)
            pause = waited
