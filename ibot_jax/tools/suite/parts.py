"""The measurements of a suite: commands of their own, the most telling ones first.

Each runs in a process of its own: what one leaves in a device's memory, or breaks, is nothing to
the next.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from etils import epath

from ibot_jax.cli import exits
from ibot_jax.weights.run_metrics import read_rows

SMALLEST_BATCH = 16  # from whose memory that of larger ones is told
_MARGIN = 0.9  # of a device's memory: what the compiler plans is not all that is taken
_TRIES = 3
_SAVE_SECONDS = 20.0  # left for a training to save and end
_DOES_NOT_FIT = "does not fit the devices' memory"


class Failed(Exception):
    """A measurement that found nothing; the message is its error, on one line."""


class OutOfTime(Exception):
    """There is no time left for a measurement, or it took longer."""


class Clock:
    """How much time is left.

    Attributes:
      left: seconds until its end, none if that has passed.
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


def run_bench(
    command: Sequence[str], out: pathlib.Path, clock: Clock, shares_device: bool = False
) -> dict:
    """Runs a command of `tools.bench`; returns its report, which also lies in `out` then.

    Args:
      command: its name and flags.
      out: the file of the report, there only if it is whole.
      clock: when it must have ended.
      shares_device: whether another program needs memory of the device at the same time.

    Raises:
      Failed: if there is no report.
      OutOfTime: if it did not end in time.
    """
    if not clock.left:
        raise OutOfTime
    partial = out.with_suffix(".partial")
    program = [sys.executable, "-m", "ibot_jax.tools.bench", *command, f"--json={partial}"]
    # By default JAX takes three quarters of a GPU's memory at its start.
    options = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if shares_device else {}
    env = os.environ | options
    try:
        done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=clock.left)
    except subprocess.TimeoutExpired:
        raise OutOfTime from None
    if not partial.exists() or not partial.stat().st_size:
        raise Failed(_last_line(done.stderr) or f"it ended with status {done.returncode}")
    partial.rename(out)
    return json.loads(out.read_text())


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else ""


def step_at_largest_batch(
    measure: Callable[[int], dict], most: int, smallest: int = SMALLEST_BATCH
) -> dict:
    """Returns the report of a step at the largest batch that fits, or at `most`.

    What a step needs beyond its state grows with its batch, so a small one tells how large a large
    one may be.

    Args:
      measure: returns the report of a step at a batch; raises `Failed` where it does not fit.
      most: images, no more are tried.
      smallest: images of the first try.
    """
    smallest = min(smallest, most)
    report = measure(smallest)
    memory = report["memory_bytes"]
    if smallest == most:
        return report
    batch = most
    if "limit" in memory:
        state = memory["aliased"]  # what a step updates in place
        each = (memory["total"] - state) / smallest
        fits = int((_MARGIN * memory["limit"] - state) / each)
        batch = min(most, fits // smallest * smallest)
    for _ in range(_TRIES):
        if batch <= smallest:
            break
        try:
            return measure(batch)
        except Failed as error:
            if _DOES_NOT_FIT not in str(error):
                raise
        batch = batch * 3 // 4 // smallest * smallest
    return report


def train(config: str, overrides: Sequence[str], workdir: pathlib.Path, clock: Clock) -> dict:
    """Trains for the time that is left, or goes on; returns what its metrics say.

    Raises:
      Failed: if the run ended by itself, before its end.
      OutOfTime: if there is too little time.
    """
    if clock.left < 2 * _SAVE_SECONDS:
        raise OutOfTime
    command = [sys.executable, "-m", "ibot_jax.main", f"--config={config}", *overrides]
    start = time.monotonic()
    with subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=clock.left - _SAVE_SECONDS)
            if process.returncode != exits.COMPLETE:
                raise Failed(_last_line(errors))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    return _of_metrics(workdir) | {"seconds": time.monotonic() - start}


def _of_metrics(workdir: pathlib.Path) -> dict:
    """Returns the last value of each metric that tells of a training."""
    rows = read_rows(epath.Path(workdir))
    if not rows:
        raise Failed("there was no time for a first step")
    names = ("step", "epoch", "loss", "images_per_second", "knn_top1", "probe_top1")
    return {name: row[name] for row in rows for name in names if name in row}
