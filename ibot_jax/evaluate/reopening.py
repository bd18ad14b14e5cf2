"""What an evaluation has trained for pixels, opened again by its report.

A report, TASK-KEY.json or TASK.json, has the command line; beside it lies what was trained.
"""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

import jax

from ibot_jax.cli import subcommands
from ibot_jax.errors import UserError
from ibot_jax.evaluate.__main__ import TASKS
from ibot_jax.evaluate.common.opening import open_model
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.parameters import Params
from ibot_jax.weights.card import read_report
from ibot_jax.weights.model import Model

# Tasks whose modules have `reopen(args, about, model, params, mesh)`, which gives a `PixelModel`.
_TASKS = ("segmentation", "upernet", "depth")


@dataclasses.dataclass(frozen=True)
class Reopened:
    """What was trained.

    Attributes:
      report: see `card.read_report`.
      model: that was evaluated.
      params: its parameters.
      pixels: what was made of it.
    """

    report: Mapping[str, Any]
    model: Model
    params: Params
    pixels: PixelModel


def is_report(source: str) -> bool:
    """Returns whether --from names a report of an evaluation."""
    return source.endswith(".json")


def reopen(
    source: str, mesh: jax.sharding.Mesh, *, batch_size: int = 0, portable: bool = False
) -> Reopened:
    """Opens what the evaluation of a report has trained.

    Args:
      source: the report.
      mesh: the devices.
      batch_size: images or windows at a time; 0 takes as many as in training.
      portable: whether it is to run on every platform, in float32.

    Raises:
      UserError: if it is no report of such a task, or what it was made of is not there any more.
    """
    path = absolute_path(source)
    report = read_report(path, "--from")
    if report["task"] not in _TASKS:
        raise UserError(
            f"--from={source} is a report of {report['task']}, which trains nothing for pixels; "
            f"give one of {', '.join(_TASKS)}"
        )
    words = shlex.split(report["command"])[3:]  # python -m ibot_jax.evaluate
    parsed = subcommands.parse(words, "ibot_jax.evaluate", TASKS, noun="task", doc="")
    assert parsed, words  # they ask for no help
    module, _, args = parsed
    args.out = str(path.parent)
    args.batch_size = batch_size or args.batch_size
    args.dtype = "float32" if portable else args.dtype
    try:
        model, params = open_model(args, mesh)
    except UserError as error:
        raise UserError(f"{path} is of weights that cannot be read: {error}") from error
    if model.facts["sha256"] != report["settings"]["sha256"]:
        raise UserError(f"{path} is of other weights than {args.source} has now; evaluate it anew")
    if portable:
        model.config.model.kernels = "xla"
    pixels = module.reopen(args, report["settings"], model, params, mesh)
    return Reopened(report, model, params, pixels)
