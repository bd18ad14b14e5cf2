"""What the experiments of docs/results.md share: runs that go on, and rows that they add."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ibot_jax import main as training


def train(*arguments: str) -> None:
    """Runs the training of a command line, or what is left of it."""
    if status := training.main(["main", *arguments]):
        raise SystemExit(status)


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, none where there is no file yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def add_rows(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to a file."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def mean_and_range(values: Sequence[float]) -> str:
    """Returns the mean, and lowest and highest where there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def pyplot():
    """Returns matplotlib's pyplot, set such that the same picture is the same file."""
    import matplotlib.pyplot as plt  # only pictures need it

    plt.rcParams["svg.hashsalt"] = "ibot_jax"
    return plt
