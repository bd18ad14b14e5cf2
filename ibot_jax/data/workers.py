"""Processes that make views: Pillow's small operations would queue for one interpreter's lock.

Each worker is a fresh interpreter without tensorflow and jax that runs this module. It is told its
task once, answers requests on its standard input, and ends when that closes: with its owner,
however that ends.
"""

import contextlib
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from ibot_jax.errors import TrainingError


class Task(Protocol):
    """What workers do; it must be picklable."""

    def __call__(self, *args: Any) -> tuple[np.ndarray, ...]:
        """Makes one example."""

    def blank(self) -> tuple[np.ndarray, ...]:
        """Returns zeros of the shapes and dtypes that the call returns."""


class Workers:
    """A pool of processes that all run the same task; safe to call from several threads.

    Attributes:
      count: how many they are.
      close: a function that ends them; dropping the pool, or leaving the program, does so too.
    """

    def __init__(self, task: Task, count: int):
        """Starts `count` processes, or one for each core of this process if it is 0."""
        self.count = count or _num_cores()
        command = [sys.executable, "-m", "ibot_jax.data.workers"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._processes = [
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(self.count)
        ]
        self.close = weakref.finalize(self, _kill, self._processes)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        for process in self._processes:
            _send(task, process.stdin)
            self._idle.put(process)

    def __call__(self, requests: Sequence[tuple]) -> tuple[list[np.ndarray], dict[int, str]]:
        """Runs the task on every request, in one of the processes.

        Args:
          requests: R tuples of arguments of the task.

        Returns:
          The task's arrays stacked to [R, ...]; and the requests that failed, as row and reason:
          their rows are zero.

        Raises:
          TrainingError: if the process is gone.
        """
        process = self._idle.get()
        try:
            _send(requests, process.stdin)
            return pickle.load(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            code = process.wait(timeout=10)
            raise TrainingError(
                f"a worker process of the input pipeline ended with code {code}; "
                f"if memory ran out, use fewer than data.workers={self.count}"
            ) from error
        finally:
            self._idle.put(process)


def _kill(processes: Sequence[subprocess.Popen]) -> None:
    """Ends the processes; what they are doing is lost."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what is left in its buffer goes nowhere
                pipe.close()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux; a scheduler may have lent us a few only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _send(message: Any, file: BinaryIO) -> None:
    pickle.dump(message, file, protocol=pickle.HIGHEST_PROTOCOL)
    file.flush()


def serve(task: Task, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until their stream ends."""
    while True:
        try:
            rows = pickle.load(requests)
        except EOFError:
            return
        arrays = [np.zeros((len(rows), *array.shape), array.dtype) for array in task.blank()]
        errors = {}
        for row, args in enumerate(rows):
            try:
                for array, value in zip(arrays, task(*args), strict=True):
                    array[row] = value
            except Exception as error:  # Pillow and file systems raise nearly every kind
                errors[row] = f"{type(error).__name__}: {error}"
        _send((arrays, errors), replies)


def main() -> None:
    """Runs a worker on standard input and output."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the owner decides
        signal.signal(number, signal.SIG_IGN)
    replies = io.FileIO(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    with contextlib.suppress(BrokenPipeError), io.BufferedWriter(replies) as buffered:
        serve(pickle.load(sys.stdin.buffer), sys.stdin.buffer, buffered)


if __name__ == "__main__":
    main()
