"""What a path holds: a run, a fine-tuning, an export, weights to start from, or foreign weights.

Every program that reads a model asks `find`; `read` reads what it names.
"""

import dataclasses
import difflib
from typing import Literal

from etils import epath

from ibot_jax.config.flat import Flat
from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path
from ibot_jax.weights import hub
from ibot_jax.weights.checkpoints import complete_steps, find_checkpoint, is_checkpoint
from ibot_jax.weights.formats import (
    PARAMS,
    is_exported_folder,
    is_own_npz,
    is_own_safetensors,
)
from ibot_jax.weights.history import read_config

Kind = Literal["run", "fine-tuning", "export", "start", "foreign"]


@dataclasses.dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
      kind: "run", a pre-training, or "fine-tuning", with their checkpoints; "export", one set of
        weights that this project wrote; "start", student, teacher and centers as `convert` writes
        them; "foreign", whatever else there is.
      place: the workdir of a run or fine-tuning; else the file or folder.
      step: which checkpoint is meant, of a run or fine-tuning: "latest", "best" or digits.
      config: of a run or fine-tuning as of its last start, None where it is not there.
    """

    kind: Kind
    place: epath.Path
    step: str = "latest"
    config: Flat | None = None

    @property
    def has_checkpoints(self) -> bool:
        """Whether it is a workdir: of a run or a fine-tuning."""
        return self.kind in ("run", "fine-tuning")

    def part(self, weights: str) -> str:
        """Returns the part of a checkpoint that holds the weights of "teacher" or "student".

        A fine-tuning has one set of weights.
        """
        if self.kind == "fine-tuning":
            return PARAMS
        return "student" if weights == "student" else "teacher"

    def checkpoint(self, *parts: str) -> tuple[int, float | None]:
        """Returns the step that is meant, verified, and its accuracy; see `find_checkpoint`.

        Args:
          *parts: that will be read, such as "teacher".
        """
        metric = "test_top1" if self.kind == "fine-tuning" else "knn_top1"
        return find_checkpoint(self.place, self.step, parts, metric=metric)


def find(path: str, step: str = "latest") -> Source:
    """Finds out what a path holds.

    Args:
      path: as the user gives it: a workdir, its folder checkpoints/, one checkpoint in it, any
        file or folder of weights, or hf://ORG/NAME.
      step: of the checkpoints, "latest", "best" or digits.

    Raises:
      UserError: if there is nothing, or the path leads into a checkpoint, or names another one than
        `step`, or a file is damaged.
    """
    place = hub.fetch(path) if hub.is_on_hub(path) else absolute_path(path)
    if not place.exists():
        raise UserError(
            f"{path} does not exist{_near(place)}; give a run's workdir, a checkpoint, an export, "
            "a file or folder of weights, or hf://ORG/NAME of the hub"
        )
    if not place.is_dir():
        is_own = is_own_npz(place) or is_own_safetensors(place)
        return Source("export" if is_own else "foreign", place)
    if is_exported_folder(place):
        return Source("export" if (place / PARAMS).is_dir() else "start", place)
    workdir, step = _find_workdir(place, step)
    config = read_config(workdir)
    if config is not None and "flags.source" in config:
        return Source("fine-tuning", workdir, step, config)
    if (workdir / "checkpoints").is_dir() or (config is not None and "data.source" in config):
        return Source("run", workdir, step, config)
    return Source("foreign", place)


def _near(place: epath.Path) -> str:
    """Returns a hint at what lies beside a path that does not exist, and is called nearly so."""
    names = [other.name for other in place.parent.iterdir()] if place.parent.is_dir() else []
    close = difflib.get_close_matches(place.name, names, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _find_workdir(path: epath.Path, step: str) -> tuple[epath.Path, str]:
    """Returns the workdir that a path belongs to, and which of its checkpoints is meant.

    For the path of one checkpoint it is that one, unless `step` asks for another.
    """
    if is_checkpoint(path):
        if step not in ("latest", path.name):
            raise UserError(
                f"{path} is the checkpoint of step {path.name}, and step {step!r} is another; "
                f"give its run, {path.parent.parent}, or no step"
            )
        return path.parent.parent, path.name
    if path.name == "checkpoints" and not (path / "config.json").exists() and complete_steps(path):
        return path.parent, step
    if is_checkpoint(path.parent):
        raise UserError(f"{path} is a part of a checkpoint; give the checkpoint, {path.parent}")
    number, set_aside, _ = path.name.partition(".damaged")
    if set_aside and is_checkpoint(path.with_name(number)):
        raise UserError(f"{path} was set aside as damaged; give another checkpoint of its run")
    return path, step
