"""What an evaluation found: a table on the screen, JSON, and TensorBoard."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import ibot_jax
from ibot_jax.errors import UserError
from ibot_jax.paths import absolute_path
from ibot_jax.tensorboard import TensorBoard


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a task.

    Attributes:
      task: its name.
      settings: what it was run with: weights, data, hyperparameters; JSON types only.
      metrics: the figures that count, by name; percentages between 0 and 100.
      rows: the table, a dict for each row with the same keys in the same order.
      curves: (x, y) pairs by name, x a whole number, which TensorBoard draws along its steps.
    """

    task: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Sequence[tuple[int, float]]] = dataclasses.field(default_factory=dict)

    def publish(self, folder: str) -> None:
        """Prints the table; writes FOLDER/TASK.json and FOLDER/tensorboard.

        Only the first of several processes does. Written under a temporary name first.

        Raises:
          UserError: if the folder cannot be written.
          SaveError: if TensorBoard's file cannot.
        """
        if jax.process_index():
            return
        print(table(self.rows))
        target = absolute_path(folder)
        content = {"task": self.task, "ibot_jax": ibot_jax.__version__}
        content |= {"settings": self.settings, "metrics": self.metrics, "rows": list(self.rows)}
        try:
            target.mkdir(parents=True, exist_ok=True)
            temporary = target / f".{self.task}.json.new"
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(target / f"{self.task}.json")
            board = TensorBoard(target / "tensorboard")
            board.write(self.settings.get("step") or 0, _named(self.task, self.metrics))
            for name, curve in self.curves.items():
                for x, y in curve:
                    board.write(x, _named(self.task, {f"curves/{name}": y}))
            board.close()
            board.check()
        except OSError as error:
            raise UserError(f"--out={folder} cannot be written ({error.strerror})") from error
        print(f"written to {target / f'{self.task}.json'}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as aligned text, numbers with two decimals, small ones with three digits."""

    def show(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.2f}"

    lines = [list(rows[0])] + [[show(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _named(task: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{task}/{name}": value for name, value in metrics.items()}
