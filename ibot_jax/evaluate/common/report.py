"""What an evaluation found: a table on the screen, JSON, and TensorBoard."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

import ibot_jax
from ibot_jax.files.atomic import write_bytes, write_json
from ibot_jax.files.paths import absolute_path, writing
from ibot_jax.files.tensorboard import TensorBoard
from ibot_jax.parallel.processes import is_first

SHARED = "shared_images"  # a metric that is there only where there are some
# Settings that only say where the model comes from: its hash tells which it is.
_NAMES = ("from", "weights", "step", "knn_top1", "knn_shared_images", "test_top1", "ibot_jax")


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a task.

    Attributes:
      task: its name.
      settings: what it was run with: weights, data, hyperparameters; JSON types only.
      metrics: the figures that count, by name; percentages between 0 and 100.
      rows: the table, a dict for each row with the same keys in the same order.
      curves: (x, y) pairs by name, x a whole number, which TensorBoard draws along its steps.
      shared_images: how many test images are training images, too, and count all the same.
    """

    task: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Sequence[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    shared_images: int = 0

    @property
    def all_metrics(self) -> dict[str, float]:
        """The metrics, and how many images are shared, where some are."""
        return dict(self.metrics) | ({SHARED: self.shared_images} if self.shared_images else {})

    @property
    def key(self) -> str:
        """Returns a hash of what was evaluated: the weights, the data, and how."""
        about = json.dumps([self.task, determining(self.settings)], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()[:8]

    def publish(self, folder: str, command: Sequence[str] = ()) -> None:
        """Prints the table; writes FOLDER/TASK-KEY.json, the same as FOLDER/TASK.json, and events.

        TASK.json is the latest of the task; what an earlier one said under another key, or none, is
        kept. FOLDER/tensorboard/TASK-KEY has the events. Only the first of several processes
        writes. All is written under a temporary name first.

        Args:
          folder: local or of a bucket; made where it is missing.
          command: words of the command line that finds the same.

        Raises:
          UserError: if the folder cannot be written.
          TrainingError: if TensorBoard's file cannot.
        """
        if not is_first():
            return
        print(table(self.rows))
        metrics = self.all_metrics
        if self.shared_images:
            print(f"{self.shared_images:,} of the test images are training images, too")
        target = absolute_path(folder)
        name = f"{self.task}-{self.key}"
        own, latest = target / f"{name}.json", target / f"{self.task}.json"
        content = {"task": self.task, "ibot_jax": ibot_jax.__version__, "key": self.key}
        content |= {"command": shlex.join(command), "settings": self.settings}
        content |= {"metrics": metrics, "rows": list(self.rows)}
        with writing("--out", folder):
            target.mkdir(parents=True, exist_ok=True)
            replaced = own.exists()
            _keep_earlier(latest)
            for path in (own, latest):
                write_json(path, content)
            self._write_events(target / "tensorboard" / name, metrics)
        print(f"written to {own}, and as {latest.name}")
        if replaced:
            print("which replaces what the same evaluation had found before")

    def _write_events(self, folder: epath.Path, metrics: Mapping[str, float]) -> None:
        if folder.is_dir():
            folder.rmtree()
        board = TensorBoard(folder)
        board.write(self.settings.get("step") or 0, _named(self.task, metrics))
        for name, curve in self.curves.items():
            for x, y in curve:
                board.write(x, _named(self.task, {f"curves/{name}": y}))
        board.close()
        board.check()


def _keep_earlier(latest: epath.Path) -> None:
    """Makes sure that what TASK.json says has a file of its own, too."""
    if not latest.exists():
        return
    text = latest.read_text()
    try:
        key = json.loads(text)["key"]
        known = key.isalnum()
    except (ValueError, KeyError, TypeError, AttributeError):  # of an earlier version, or no report
        known = False
    if not known:
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
    own = latest.with_name(f"{latest.stem}-{key}.json")
    if not own.exists():
        write_bytes(own, text.encode())


def determining(settings: Mapping[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """Returns the settings on which an outcome depends.

    Args:
      settings: what a task was run with.
      but: names of those on which this outcome does not.
    """
    return {k: v for k, v in settings.items() if k not in (*_NAMES, *but)}


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
