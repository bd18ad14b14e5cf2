"""Under which config, and on which images, the steps of a run were made.

    WORKDIR/config.json   the config, as of the last start
    WORKDIR/start.json    the weights that it started from, if any: {"source": PATH, "kind": ...,
                          "parts": {"student": "backbone of the teacher there", ...}, ...}
    WORKDIR/history.json  [{"from_step": 0, "config": {...}, "data": {"images": N, "names": HASH}}]

An entry holds for the steps after `from_step`, up to that of the next entry. A start that changes
nothing adds none. Runs of earlier versions have no history: their config holds for all their steps.
"""

import json
from typing import Any

from etils import epath

from ibot_jax.config.flat import Flat
from ibot_jax.data.sources.identity import Identity
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.json_files import parse_object

CONFIG, HISTORY, START = "config.json", "history.json", "start.json"


def read_config(workdir: epath.Path) -> Flat | None:
    """Returns the config of the run in a folder; None if there is none.

    Raises:
      UserError: if the file is damaged.
    """
    return _read_object(workdir / CONFIG)


def read_start(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns what is recorded of the weights that a run started from; None if it drew its own.

    Raises:
      UserError: if the file is damaged.
    """
    return _read_object(workdir / START)


def record_weights(workdir: epath.Path, start: dict[str, Any] | None) -> None:
    """Records the weights that a new run starts from, in place of those of a start that failed."""
    if start is None:
        (workdir / START).unlink(missing_ok=True)
    else:
        write_json(workdir / START, start)


def _read_object(path: epath.Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return parse_object(path.read_bytes())
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; restore the file, or remove it") from None
    except ValueError as error:
        raise UserError(f"{path} {error}; restore or remove it") from None


def config_of_step(workdir: epath.Path, step: int) -> Flat | None:
    """Returns the config under which a run came to a step; None if the folder holds no run.

    Raises:
      UserError: if a file is damaged.
    """
    now = read_config(workdir)
    entries = _read_history(workdir)
    if now is None or not entries:
        return now
    held = [entry for entry in entries if entry["from_step"] < step]
    return (held or entries)[-1 if held else 0]["config"]


def data_of_run(workdir: epath.Path) -> Identity | None:
    """Returns which images a run was last trained on; None if that is not recorded.

    Raises:
      UserError: if a file is damaged.
    """
    entries = _read_history(workdir)
    return entries[-1]["data"] if entries else None


def record_start(workdir: epath.Path, config: Flat, data: Identity, step: int) -> Identity | None:
    """Records under what a run goes on.

    Args:
      workdir: of the run.
      config: from now on.
      data: from now on.
      step: from which it goes on.

    Returns:
      The images before, if they were others and are known.
    """
    before = read_config(workdir)
    entries = _read_history(workdir)
    if not entries and before is not None and step:  # of an earlier version
        entries = [{"from_step": 0, "config": before, "data": None}]
    entries = [entry for entry in entries if entry["from_step"] < step]
    last = entries[-1] if entries else {"config": None, "data": None}
    if (last["config"], last["data"]) != (config, data):
        entries.append({"from_step": step, "config": config, "data": data})
        write_json(workdir / HISTORY, entries)
    write_json(workdir / CONFIG, config)
    return last["data"] if last["data"] != data else None


def _read_history(workdir: epath.Path) -> list[dict[str, Any]]:
    path = workdir / HISTORY
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, list):
            raise ValueError
        for entry in entries:
            if not (
                type(entry["from_step"]) is int
                and isinstance(entry["config"], dict)
                and (entry["data"] is None or entry["data"].keys() >= {"images", "names"})
            ):
                raise ValueError
        return entries
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is damaged; restore it, or remove it: then config.json holds for all steps"
        ) from None
