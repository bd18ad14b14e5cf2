"""What a suite has measured already, in one file, so that it goes on where it was interrupted."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.parallel.processes import is_first


@dataclasses.dataclass
class Record:
    """Metrics of evaluations, by what was measured how.

    Attributes:
      path: of the file.
      rows: {"weights", "task", "flags", "metrics", ...} of each evaluation that is done.
    """

    path: epath.Path
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: epath.Path) -> "Record":
        """Reads the file, if there is one.

        Raises:
          UserError: if it is not of a suite.
        """
        if not path.exists():
            return cls(path, [])
        try:
            rows = json.loads(path.read_text())
            for row in rows:
                _ = row["weights"], row["task"], row["flags"], row["metrics"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not what a suite has kept; remove it") from None
        return cls(path, rows)

    def metrics(self, weights: str, task: str, flags: Sequence[str]) -> Mapping[str, float] | None:
        """Returns what was found for weights of a hash by a task with these flags, if it was."""
        for row in self.rows:
            if (row["weights"], row["task"], row["flags"]) == (weights, task, list(flags)):
                return row["metrics"]
        return None

    def add(self, weights: str, task: str, flags: Sequence[str], **found: Any) -> None:
        """Adds an evaluation, with its `metrics` and whatever else, and writes the file."""
        self.rows.append({"weights": weights, "task": task, "flags": list(flags), **found})
        if is_first():
            write_json(self.path, self.rows)
