"""Carries a process's traffic with JAX's coordination service: python relay.py HOST PORT.

JAX ends a process, with a stack trace and before any Python code may act, as soon as the connection
to the first process breaks. A connection to this program, which runs beside the process, does not:
who has gone is then told by `peers`. It prints the port on which it listens, on 127.0.0.1, and ends
when its standard input closes: with its owner, however that ends. It imports nothing but the
standard library and is run by its path.
"""

import contextlib
import os
import socket
import sys
import threading
import time


def main(host: str, port: int) -> None:
    """Relays until standard input closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener, (host, port)), daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


def _accept(listener: socket.socket, address: tuple[str, int]) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_relay, args=(near, address), daemon=True).start()


def _relay(near: socket.socket, address: tuple[str, int]) -> None:
    far = _connect(address)
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_pump, args=(far, near), daemon=True).start()  # its end is not told
    _pump(near, far)
    for end in (near, far):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def _connect(address: tuple[str, int]) -> socket.socket:
    while True:
        try:
            far = socket.create_connection(address, timeout=10)
            far.settimeout(None)
            return far
        except OSError:  # not there yet; JAX limits the time
            time.sleep(0.1)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Passes bytes on until either end closes."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
