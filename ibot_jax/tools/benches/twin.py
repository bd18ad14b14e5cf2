"""The process of the other side, which has PyTorch, and the rounds of both."""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.config.flat import flatten
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.tools.benches import lines
from ibot_jax.tools.benches.turns import in_turns


def add_twin_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how both sides are compared."""
    flags.add_number(parser, "--rounds", 5, "turns of both")
    flags.add_number(parser, "--steps", 3, "steps a turn")
    parser.add_argument(
        "--style",
        choices=("original", "best"),
        default="original",
        help="the original's code, or that with fused attention and AdamW and torch.compile",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="a Python with PyTorch (default: this one)",
    )


class Twin:
    """The process of the other side."""

    def __init__(self, process: subprocess.Popen, python: str):
        self._process, self._python = process, python
        self.described = self._answer()

    def run(self, steps: int) -> dict:
        """Runs steps; returns their `seconds` together, the last `loss`, and `peak_bytes`."""
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.stderr.read().strip().splitlines() or ["no word of why"]
            raise UserError(f"PyTorch's step by {self._python} failed: {errors[-1]}")
        return json.loads(line)


@contextlib.contextmanager
def started(
    python: str, program: str, spec: dict, arrays: Mapping[str, np.ndarray]
) -> Iterator[Twin]:
    """Starts the other side, and ends it.

    Args:
      python: a Python with PyTorch.
      program: a file of this folder.
      spec: what it computes, as its `Spec` says.
      arrays: what it reads beside that, by name.

    Raises:
      UserError: if it cannot start, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "spec.npz"
        np.savez(path, spec=json.dumps(spec), **arrays)
        try:
            process = subprocess.Popen(
                [python, pathlib.Path(__file__).with_name(program), path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise UserError(f"--python={python} does not start: {error.strerror}") from None
        with process:
            try:
                yield Twin(process, python)
            finally:
                process.kill()


def refuse_other(config: Section, only: Mapping[str, Any]) -> None:
    """Refuses what the other side does not compute.

    Args:
      config: of a run.
      only: by key, what it does.

    Raises:
      UserError: with the first key that has another value, or the dtype.
    """
    flat = flatten(config)
    for key, value in only.items():
        if flat[key] != value:
            raise UserError(
                f"{key}={flat[key]!r} is none of the original's; only {value!r} is timed"
            )
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype={config.dtype!r} is not timed; use float32 or bfloat16")


def backbone_spec(config: Section, style: str) -> dict[str, Any]:
    """Returns what `torch_step.BackboneSpec` holds."""
    names = ("width", "depth", "heads", "patch_size", "mlp_ratio", "drop_path")
    return dict(
        style=style,
        dtype=config.dtype,
        global_size=list(config.data.global_size),
        **{name: config.model[name] for name in names},
    )


def measure(run: Callable[[int], object], twin: Twin, *, rounds: int, steps: int) -> dict:
    """Times both sides in turns.

    Args:
      run: (steps) -> when they are done.
      twin: the other side.
      rounds: of turns.
      steps: of a turn.

    Returns:
      `ours` and `theirs`, seconds a step of each round; `ratio`, by how many times ours is the
      faster, of each round; `jax` and `device`, `torch`, `torch_device`, `torch_threads` and
      `torch_peak_bytes`.
    """
    answer = {}

    def ours() -> float:
        start = time.perf_counter()
        run(steps)
        return (time.perf_counter() - start) / steps

    def theirs() -> float:
        answer.update(twin.run(steps))
        return answer["seconds"] / steps

    run(1)
    seconds = in_turns({"ours": ours, "theirs": theirs}, rounds)
    both = zip(seconds["ours"], seconds["theirs"], strict=True)
    return {
        **seconds,
        "ratio": [theirs / ours for ours, theirs in both],
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "torch": twin.described["torch"],
        "torch_device": twin.described["device"],
        "torch_threads": twin.described["threads"],
        "torch_peak_bytes": answer["peak_bytes"],
    }


def rows(report: dict) -> list[tuple[str, str]]:
    """Returns what a report shows of both sides: names and values."""
    batch = report["batch_size"]
    theirs = (
        f"{report['style']}, PyTorch {report['torch']} on {report['torch_device']}, "
        f"{report['torch_threads']} thread(s)"
    )
    return [
        ("batch", f"{batch} images, {report['dtype']}"),
        (f"here, JAX {report['jax']} on {report['device']}", lines.speed(batch, report["ours"])),
        (theirs, lines.speed(batch, report["theirs"])),
        ("ratio", lines.ratio(report["ratio"])),
    ]
