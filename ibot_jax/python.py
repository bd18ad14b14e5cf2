"""Training from Python: `ibot_jax.pretrain`, and the run that it returns."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
from absl import flags
from ml_collections import ConfigDict

from ibot_jax.cli import exits
from ibot_jax.cli.config_file import parse_config
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.parameters import Params
from ibot_jax.runs.check import check_config, problems_at_hand
from ibot_jax.weights.load import load
from ibot_jax.weights.model import Model
from ibot_jax.weights.run_metrics import read_rows

# The name of one that comes with the project, a file, or a config.
Config: TypeAlias = str | ConfigDict


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, as its workdir holds it.

    Attributes:
      workdir: where it wrote.
      complete: whether it came to its end; a signal ends it earlier, its state saved.
    """

    workdir: str
    complete: bool

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yields the lines of metrics.jsonl, of training steps and of evaluations."""
        yield from read_rows(absolute_path(self.workdir))

    def best(self) -> dict[str, Any] | None:
        """Returns the line of the evaluation with the highest k-NN accuracy, None without any."""
        measured = [row for row in self.metrics() if row.get("knn_top1") is not None]
        return max(measured, key=lambda row: row["knn_top1"], default=None)

    def load(self, **options: Any) -> tuple[Model, Params]:
        """Returns (model, params), of the latest checkpoint unless told; see `ibot_jax.load`."""
        return load(self.workdir, **options)


def pretrain(
    config: Config,
    workdir: str,
    changes: Mapping[str, Any] | None = None,
    *,
    allow_config_change: bool = False,
) -> Run:
    """Trains a model; arguments, result and errors are those of `ibot_jax.pretrain`."""
    changes = dict(changes or {})
    if isinstance(config, str):
        overrides = [f"--config.{key}={value}" for key, value in changes.items()]
        argv = ["", f"--config={config}", *overrides]
        config = parse_config(argv, flags.FlagValues(), check=problems_at_hand)
    else:
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        check_config(config)
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from ibot_jax.runs import pretrain as training  # tensorflow, slow to import

    status = training.pretrain(config, workdir, allow_config_change=allow_config_change)
    return Run(workdir, complete=status == exits.COMPLETE)
