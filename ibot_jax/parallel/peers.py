"""The processes of a run watch each other: who lives, who leaves, who is gone.

On the connections of their rendezvous each side sends a sign of life every `BEAT_SECONDS`. One that
breaks, or is silent for `SILENCE_SECONDS`, names a process that died or is stopped, which process 0
tells the others. Each then prints one line and ends: what they compute together cannot go on, and a
device that waits for another one waits for ever.
"""

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from ibot_jax.parallel.links import Message
from ibot_jax.parallel.rendezvous import Joined

BEAT_SECONDS = 2
SILENCE_SECONDS = 60
# Whoever ends as all do has the others follow within seconds; who ends alone is waited for in vain.
_PARTING_SECONDS = 60
_SEND_SECONDS = 5
_POLL_SECONDS = 0.2


class Peers:
    """Watches the other processes of a run, in a thread, until this one leaves."""

    def __init__(self, joined: Joined, end: Callable[[str, int], NoReturn]):
        """Begins to watch.

        Args:
          joined: who came.
          end: ends this process with a line, "" for none, and an exit status; called in the thread.
        """
        self._process = joined.process
        self._hosts = joined.hosts
        self._links = dict(joined.links)
        self._end = end
        self._left: dict[int, tuple[float, str]] = {}  # deadlines, and what is said then
        self._status: int | None = None  # of this process, once it leaves
        self._lock = threading.Lock()
        for link in self._links.values():
            link.connection.settimeout(_SEND_SECONDS)
            link.heard = time.monotonic()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def leave(self, status: int, text: str = "") -> None:
        """Tells the others that this process ends, and says nothing of them from now on.

        Args:
          status: with which it ends.
          text: why, in words.
        """
        with self._lock:
            if self._status is not None:
                return
            self._status = status
            self._tell({"left": self._process, "status": status, "text": text})

    def name(self, process: int) -> str:
        """Returns how a process is called."""
        return f"process {process} on {self._hosts[process]}"

    def _tell(self, message: Message, but: Iterable[int] = ()) -> None:
        for process, link in list(self._links.items()):
            if process not in but:
                link.send(message)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as heard:
            for process, link in self._links.items():
                heard.register(link, selectors.EVENT_READ, process)
            beat = turn = time.monotonic()
            while True:
                events = heard.select(_POLL_SECONDS)
                if time.monotonic() - turn > 2 * BEAT_SECONDS:  # stopped itself: no one's silence
                    for link in self._links.values():
                        link.heard = time.monotonic()
                turn = time.monotonic()
                for key, _ in events:
                    try:
                        for message in key.fileobj.receive():
                            self._hear(key.data, message)
                    except (EOFError, ValueError):
                        heard.unregister(key.fileobj)
                        self._lost(key.data)
                if turn - beat > BEAT_SECONDS:
                    beat = turn
                    self._tell({})
                self._check(turn)

    def _hear(self, sender: int, message: Message) -> None:
        if "gone" in message:
            process = message["gone"]
            if process == self._process:
                self._conclude(
                    "the other processes ended, as this one gave no sign of life for "
                    f"{SILENCE_SECONDS} s"
                )
            self._conclude(message["text"])
        if "left" in message:
            process, status, text = message["left"], message["status"], message["text"]
            if not self._process:  # the others are told by the one whom all can reach
                self._tell(message, but=(sender,))
            words = f"{self.name(process)} ended with exit status {status}"
            words += f": {text}" if text else ""
            seconds = _PARTING_SECONDS if status else float("inf")
            self._left[process] = time.monotonic() + seconds, words

    def _lost(self, process: int) -> None:
        """Acts on a connection that is closed."""
        del self._links[process]
        if process not in self._left:
            self._gone(process, "ended without a word: it was killed, or its host is down")

    def _check(self, now: float) -> None:
        for process, (deadline, words) in self._left.items():
            if now > deadline:
                self._gone(process, words.removeprefix(f"{self.name(process)} "))
        for process, link in list(self._links.items()):
            if now - link.heard > SILENCE_SECONDS and process not in self._left:
                self._gone(
                    process,
                    f"gave no sign of life for {SILENCE_SECONDS} s: it is stopped, or its host or "
                    "network is down",
                )

    def _gone(self, process: int, how: str) -> NoReturn:
        text = f"{self.name(process)} {how}"
        if not self._process:
            self._tell({"gone": process, "text": text})
        self._conclude(text)

    def _conclude(self, text: str) -> NoReturn:
        """Ends this process, silently where it has said why it ends."""
        with self._lock:
            status = self._status
            self._status = 1 if status is None else status
        if status is None:
            self._end(text, 1)
        time.sleep(_SEND_SECONDS)  # it may be saying so
        self._end("", status)


def end_process(text: str, status: int) -> NoReturn:
    """Ends this process at once, from any thread, with one line on stderr."""
    if text:
        below = "\n" if os.isatty(2) else ""  # a progress bar
        with contextlib.suppress(OSError):
            os.write(2, f"{below}error: {text}; what was saved last stands\n".encode())
    os._exit(status)
