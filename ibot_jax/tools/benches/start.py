"""Measures what a start takes: the help, a mistake in the config, and a run up to its first step.

Each is a process of its own, timed from the command to what it prints. Runs share a folder of
compiled programs: the first one fills it ("cold"), the others are rounds of the rest ("warm").
Their one difference to a run is that every step is logged; once the first one is, they are ended.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.tools.benches.lines import aligned

_RUN = "ibot_jax.main"
_MISTAKE = "--config.batch_size=0"
# How the line begins that ends a part of the start. Where nothing is evaluated before the first
# step, the second one is not there.
_MARKS = {
    "run: settings told": "ibot_jax ",
    "run: evaluated": "teacher at step 0 ",
    "run: first step": "step 1/",
}

Seconds = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    parser.add_argument("--rounds", type=flags.positive, default=3, help="of warm starts (3)")
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    given = [f"--config={args.config}", *args.overrides]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cold = first_step(given, folder)
        rounds = [
            {
                "help": _whole(["--help"], exits.COMPLETE),
                "mistake": _whole([*given, _MISTAKE], exits.MISTAKE),
                **first_step(given, folder),
            }
            for _ in range(args.rounds)
        ]
    print(table(cold, rounds))
    if args.json:
        write_json(absolute_path(args.json), {"cold": cold, "warm": rounds})
    return exits.COMPLETE


def first_step(given: Sequence[str], folder: pathlib.Path) -> Seconds:
    """Starts a run and ends it after its first step; returns the seconds to each of `_MARKS`.

    Args:
      given: the config and its overrides.
      folder: for programs, and the run's files.

    Raises:
      UserError: if the run ends before its first step.
    """
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        own = [f"--workdir={workdir}", "--config.log_every=1 steps"]
        found, last, began = {}, "", time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", _RUN, *given, *own],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        with process:
            for line in process.stdout or ():
                last = line.strip() or last
                for part, mark in _MARKS.items():
                    if line.startswith(mark):
                        found.setdefault(part, time.perf_counter() - began)
                if list(_MARKS)[-1] in found:
                    process.terminate()
                    process.communicate()
                    return found
    raise UserError(f"the run ended before its first step: {last.removeprefix('error: ')}")


def _whole(arguments: Sequence[str], status: int) -> float:
    """Returns the seconds of a command that ends by itself, with a status that it must have."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", _RUN, *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode != status:
        raise UserError(f"{_RUN} {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return seconds


def table(cold: Seconds, rounds: Sequence[dict[str, Any]]) -> str:
    """Returns a line for each part: its seconds where programs are compiled, and where not."""
    rows = [("seconds to", "cold    warm (lowest to highest)")]
    for part in rounds[0]:
        warm = [found[part] for found in rounds]
        first = f"{cold[part]:<8.1f}" if part in cold else " " * 8
        rows.append(
            (part, f"{first}{statistics.median(warm):.1f} ({min(warm):.1f} to {max(warm):.1f})")
        )
    return aligned(rows)
