"""The checkpoints that a run has kept: which there are, which is meant, and which are whole."""

import logging
from collections.abc import Sequence

import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.files.checksums import FIGURES, find_damage, is_listed, read_figures
from ibot_jax.models.parameters import Params
from ibot_jax.weights.read import read_arrays, readable

RESTORE = "restore it, or move it elsewhere: then an earlier one is taken"  # of what is damaged

_log = logging.getLogger(__name__)


def complete_steps(folder: epath.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, in order; none if it is absent."""
    return sorted(
        int(entry.name)
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.name.isdecimal() and entry.is_dir() and ocp.utils.is_checkpoint_finalized(entry)
    )


def is_checkpoint(path: epath.Path) -> bool:
    """Returns whether a path is that of a run's checkpoint, WORKDIR/checkpoints/STEP.

    A workdir may have such a path, too; it has its own config or checkpoints.
    """
    return (
        path.name.isdecimal()
        and path.parent.name == "checkpoints"
        and not ((path / "config.json").exists() or (path / "checkpoints").is_dir())
    )


def find_checkpoint(
    workdir: epath.Path, which: str, reads: Sequence[str], *, metric: str = "knn_top1"
) -> tuple[int, float | None]:
    """Finds one of the checkpoints that a run has kept, and compares it with its checksums.

    Args:
      workdir: of the run.
      which: "latest", "best" by `metric` (of equally good ones the later), or a step in digits.
      reads: the parts that will be read, such as "teacher"; no others are looked at.
      metric: which of the figures saved with a checkpoint tells how good it is.

    Returns:
      The step of the latest or best that is whole, after a warning that names those before it
      which are not; and the value of `metric` that was saved with it, in percent.

    Raises:
      UserError: if there is no such checkpoint; the message names those that there are, or what is
        damaged.
    """
    folder = workdir / "checkpoints"
    while True:
        steps = complete_steps(folder)
        if not steps:
            raise UserError(f"{workdir} holds no complete checkpoint; give the workdir of a run")
        values, damages = _figures(folder, steps, metric)
        candidates = _candidates(folder, which, values)
        if which != "best":
            damages = {}  # found again, where they matter
        for step in candidates:
            damage = find_damage(folder / str(step), step, reads)
            if damage is None:
                for damaged, what in damages.items():
                    path = folder / str(damaged)
                    _log.warning(
                        "%s is damaged: %s; step %d is taken in its place", path, what, step
                    )
                _warn_if_unlisted(folder / str(step))
                return step, values[step]
            damages[step] = damage
        if complete_steps(folder) == steps:  # else the run has saved meanwhile
            raise UserError(
                f"{folder} holds no whole checkpoint for step={which} ({_listed(damages)}); "
                f"restore it, or choose another of {', '.join(map(str, steps))}"
            )


def _figures(
    folder: epath.Path, steps: Sequence[int], metric: str
) -> tuple[dict[int, float | None], dict[int, str]]:
    """Returns a figure by step, None where it is not known, and what is damaged."""
    values, damages = dict.fromkeys(steps), {}
    for step in steps:
        try:
            values[step] = read_figures(folder / str(step)).get(metric)
        except (ValueError, OSError) as error:
            damages[step] = f"{FIGURES} {error}"
    return values, damages


def _candidates(folder: epath.Path, which: str, values: dict[int, float | None]) -> list[int]:
    """Returns the steps that `which` may mean, the first choice first."""
    steps = sorted(values, reverse=True)
    if which == "latest":
        return steps
    evaluated = [step for step in steps if values[step] is not None]
    known = ", ".join(["latest", *(["best"] if evaluated else []), *map(str, reversed(steps))])
    if which == "best":
        if not evaluated:
            raise UserError(
                f"step=best: no checkpoint in {folder} has a k-NN accuracy, which takes images "
                f"with labels (knn.every, knn.test_split); there are {known}"
            )
        return sorted(evaluated, key=lambda step: (values[step], step), reverse=True)
    if which not in map(str, steps):
        raise UserError(f"step={which} is not in {folder}; there are {known}")
    return [int(which)]


def set_damaged_aside(folder: epath.Path) -> None:
    """Renames damaged checkpoints, so that the latest is the newest which is whole.

    Of those before it only the small files are looked at, on which Orbax would fail.

    Args:
      folder: of the checkpoints; may be absent.

    Raises:
      UserError: if there are checkpoints, and none is whole; they stay as they are.
    """
    damages, whole = {}, None
    for step in reversed(complete_steps(folder)):
        damage = find_damage(folder / str(step), step, None, small_only=whole is not None)
        if damage is not None:
            damages[step] = damage
        elif whole is None:
            whole = step
    if damages and whole is None:
        raise UserError(
            f"{folder} holds no whole checkpoint ({_listed(damages)}); restore one, or choose "
            "another folder"
        )
    for step, damage in damages.items():
        path = folder / str(step)
        aside = _free_name(path)
        path.rename(aside)
        _log.warning("%s is damaged: %s; it is now %s", path, damage, aside.name)
    if whole is not None:
        _warn_if_unlisted(folder / str(whole))


def _free_name(path: epath.Path) -> epath.Path:
    """Returns STEP.damaged, or STEP.damaged-2 and so on, the first that is free."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 2
    while aside.exists():
        aside = path.with_name(f"{path.name}.damaged-{number}")
        number += 1
    return aside


def _listed(damages: dict[int, str]) -> str:
    return "; ".join(f"step {step}: {damage}" for step, damage in damages.items())


def _warn_if_unlisted(path: epath.Path) -> None:
    if not is_listed(path):
        _log.warning("%s is of an earlier version, without checksums: not verified", path)


def read_weights(workdir: epath.Path, step: int, part: str, keys: Sequence[str]) -> Params:
    """Reads weights of a checkpoint as NumPy arrays.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      part: of it, such as "teacher".
      keys: "backbone", "head" or both; no more than these is read.

    Raises:
      UserError: if they cannot be read.
    """
    folder = workdir / "checkpoints" / str(step) / part
    remedy = "if its run has removed it, which keeps the latest few, try another --step"
    with readable(folder, remedy):
        return read_arrays(folder, keys)
