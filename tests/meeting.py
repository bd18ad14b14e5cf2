"""Processes of a run that come together, as threads."""

import queue
import socket
import threading

from ibot_jax.errors import UserError
from ibot_jax.parallel import rendezvous


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class Group:
    """Processes of a run that come together at a port."""

    def __init__(self, port, seconds=10):
        self.port, self.seconds = port, seconds
        self.outcomes = queue.Queue()
        self.threads = []

    def come(self, process, number):
        def run():
            try:
                if process == 0:
                    outcome = rendezvous.gather(self.port, number, self.seconds)
                else:
                    outcome = rendezvous.enter(
                        "localhost", self.port, number, process, self.seconds
                    )
            except UserError as error:
                outcome = error
            self.outcomes.put((process, outcome))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)
        return self

    def met(self):
        """Returns the outcomes, by process, once all have one."""
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        return sorted((self.outcomes.get() for _ in self.threads), key=lambda pair: pair[0])
