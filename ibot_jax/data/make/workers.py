"""Processes that make views: many small operations would queue for one interpreter's lock.

Each worker is a fresh interpreter without tensorflow and jax that runs this module. It is told its
task once, answers requests on its standard input, and ends with its owner, however that ends; the
signals that tell a group of processes to end are the owner's to act on. What it makes it writes to
its rows of a batch, in memory that all share: nothing is copied.
"""

import contextlib
import functools
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from ibot_jax.config.host import num_cores
from ibot_jax.data.make import shared_arrays
from ibot_jax.data.make.shared_arrays import SharedBatches
from ibot_jax.data.pixels.unreadable import in_words
from ibot_jax.errors import TrainingError
from ibot_jax.parallel.signals import SIGNALS

_LOOK_SECONDS = 1.0


class Task(Protocol):
    """What workers do; it must be picklable."""

    def blank(self) -> tuple[np.ndarray, ...]:
        """Returns zeros of the shapes and dtypes of one example."""

    def __call__(self, out: tuple[np.ndarray, ...], *args: Any) -> str:
        """Makes one example in arrays as of `blank`, whatever they hold before.

        Returns what people should know of it, "" for nothing.
        """


class Workers:
    """A pool of processes that all run the same task; safe to call from several threads.

    Attributes:
      count: how many they are.
      batches: where they make examples: places with the task's arrays, [rows, ...] each.
      close: a function that ends them; dropping the pool, or leaving the program, does so too.
    """

    def __init__(self, task: Task, count: int, rows: int):
        """Starts processes.

        Args:
          task: what they do.
          count: how many; 0 starts one for each core of this process.
          rows: of a batch.
        """
        self.count = count or num_cores()
        self.batches = SharedBatches(task.blank(), rows)
        started = [_start(self.batches.descriptor) for _ in range(self.count)]
        self.close = weakref.finalize(self, _kill, started)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        for process in started:  # all start while the first one does
            try:
                _send((task, rows), process.stdin)
            except OSError as error:
                raise self._gone(process) from error
            self._idle.put(process)

    def __call__(
        self, requests: Sequence[tuple], place: int, row: int = 0
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Runs the task on every request, in one of the processes.

        Args:
          requests: R tuples of arguments of the task.
          place: in `batches`, which the caller holds.
          row: of the batch that the first request makes; the others make the next ones.

        Returns:
          The requests that failed, from 0 to R - 1, with the reason, whose rows are zero; and what
          the task says of others.

        Raises:
          TrainingError: if the process is gone.
        """
        process = self._idle.get()
        try:
            _send((place, row, requests), process.stdin)
            return pickle.load(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise self._gone(process) from error
        finally:
            self._idle.put(process)

    def _gone(self, process: subprocess.Popen) -> TrainingError:
        code = process.wait(timeout=10)
        return TrainingError(
            f"a worker process of the input pipeline ended with code {code}; "
            f"if memory ran out, use fewer than data.workers={self.count}"
        )


def _start(descriptor: int) -> subprocess.Popen:
    """Starts one process, which inherits the file of the batches."""
    arguments = [str(descriptor), str(os.getpid())]
    with _blocked(SIGNALS):  # for the worker as well, from its first moment on
        return subprocess.Popen(
            [sys.executable, "-m", "ibot_jax.data.make.workers", *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
        )


@contextlib.contextmanager
def _blocked(signals: Iterable[int]) -> Iterator[None]:
    """Holds back signals to this thread until the block is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(processes: Sequence[subprocess.Popen]) -> None:
    """Ends the processes; what they are doing is lost."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what is left in its buffer goes nowhere
                pipe.close()


def _send(message: Any, file: BinaryIO) -> None:
    pickle.dump(message, file, protocol=pickle.HIGHEST_PROTOCOL)
    file.flush()


def serve(descriptor: int, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until their stream ends."""
    task, num_rows = pickle.load(requests)
    blank = task.blank()

    @functools.cache
    def rows(place: int) -> list[tuple[np.ndarray, ...]]:
        arrays = shared_arrays.attach(descriptor, blank, num_rows, place)
        # The dots keep what has no axis but the rows' an array, which can be written to.
        return [tuple(array[row, ...] for array in arrays) for row in range(num_rows)]

    while True:
        try:
            place, first, requested = pickle.load(requests)
        except EOFError:
            return
        errors, notes = {}, {}
        outs = rows(place)[first : first + len(requested)]
        for number, (out, args) in enumerate(zip(outs, requested, strict=True)):
            try:
                if note := task(out, *args):
                    notes[number] = note
            except Exception as error:  # Pillow and file systems raise nearly every kind
                errors[number] = in_words(error)
                for array in out:
                    array[...] = 0
        _send((errors, notes), replies)


def main() -> None:
    """Runs a worker on standard input and output."""
    descriptor, owner = map(int, sys.argv[1:])
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    replies = io.FileIO(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no reply
    with contextlib.suppress(BrokenPipeError), io.BufferedWriter(replies) as buffered:
        serve(descriptor, sys.stdin.buffer, buffered)


def _end_with(owner: int) -> None:
    """Ends this process soon after its owner, even while it waits for a file."""
    while os.getppid() == owner:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
