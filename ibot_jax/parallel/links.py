"""Connections between the processes of a run, on which messages are JSON objects, one a line."""

import contextlib
import json
import socket
import time
from typing import Any

_LONGEST = 1 << 20  # bytes of a line

Message = dict[str, Any]


class Link:
    """A connection that carries messages."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.heard = time.monotonic()
        self._buffer = b""

    def fileno(self) -> int:
        """Returns the number of the connection, for selectors."""
        return self.connection.fileno()

    def send(self, message: Message) -> None:
        """Sends a message, or nothing where nobody listens any more."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message]:
        """Returns the messages that have come; waits for some bytes.

        Raises:
          EOFError: if the connection is closed.
          ValueError: if what came are no messages.
        """
        try:
            chunk = self.connection.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError as error:
            raise EOFError(str(error)) from error
        if not chunk:
            raise EOFError("closed")
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > _LONGEST:
            raise ValueError("no line ends")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("no message")
        return messages

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self.connection.close()
