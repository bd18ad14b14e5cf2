"""The folder that a run writes: its path, and the config that it belongs to.

    WORKDIR/config.json        the run's config
    WORKDIR/metrics.jsonl      one JSON object a line (see `metrics`)
    WORKDIR/tensorboard/       the same for TensorBoard
    WORKDIR/checkpoints/STEP/  (see `checkpoint`)

All but the checkpoints is written by the first process alone.
"""

import json
import secrets
import time
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.config_check import flatten
from ibot_jax.config_keys import Keys, free_keys
from ibot_jax.defaults import KEYS
from ibot_jax.errors import UserError
from ibot_jax.paths import absolute_path

_CONFIG = "config.json"
_VISIBLE_SECONDS = 60  # network file systems may remember for so long that a file was absent


def open_workdir(
    path: str,
    config: ConfigDict,
    *,
    allow_config_change: bool,
    flag: str = "--workdir",
    keys: Keys = KEYS,
) -> epath.Path:
    """Makes sure that a run with this config may write to `path`, and records the config there.

    Args:
      path: a local folder or any that etils.epath writes (gs://...); made if missing.
      config: of the run.
      allow_config_change: accept a folder that belongs to another config.
      flag: that names the folder on the command line, for errors.
      keys: of the config.

    Returns:
      The absolute path.

    Raises:
      UserError: if the folder cannot be written, or belongs to a run with another config.
    """
    workdir = absolute_path(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        recorded = read_config(workdir)
        changes = [] if recorded is None else differences(recorded, config, keys)
        if changes and not allow_config_change:
            listed = "; ".join(f"{key} was {was}, now {now}" for key, was, now in changes)
            raise UserError(
                f"{workdir} belongs to a run with another config: {listed}; choose another "
                f"{flag}, or continue with the new config by --allow_config_change"
            )
        if jax.process_index() == 0:
            # Renamed into place: other processes may be reading it.
            temporary = workdir / f".{_CONFIG}.{secrets.token_hex(4)}"
            temporary.write_text(json.dumps(flatten(config), indent=2) + "\n")
            temporary.replace(workdir / _CONFIG)
            if (workdir / "checkpoints").exists():  # it may be someone else's
                probe = workdir / "checkpoints" / temporary.name
                probe.touch()
                probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{flag}={path} cannot be written ({reason}); choose another folder"
        ) from error
    return workdir


def require_shared(workdir: epath.Path) -> None:
    """Waits until this process sees what the first one has written to the workdir.

    Raises:
      UserError: if it never does.
    """
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not (workdir / _CONFIG).exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"--workdir={workdir} is not the same folder on all hosts; choose one on storage "
                "that they share"
            )
        time.sleep(1)


def differences(
    recorded: dict[str, Any], config: ConfigDict, keys: Keys = KEYS
) -> list[tuple[str, str, str]]:
    """Lists what a continued run may not change silently.

    Args:
      recorded: what config.json holds, {"optim.lr": 0.001, ...}.
      config: the config of now.
      keys: of the config, which know what may change.

    Returns:
      (key, recorded value, value of now) of each key that differs and may not.
    """
    now = json.loads(json.dumps(flatten(config)))  # tuples become lists, as in the file
    absent = object()

    def show(value):
        return "absent" if value is absent else json.dumps(value)

    free, changes = free_keys(keys), []
    for key in sorted(recorded.keys() | now.keys()):
        # What the run's version did not have yet was as it is by default.
        default = json.loads(json.dumps(keys[key].default)) if key in keys else absent
        was, is_now = recorded.get(key, default), now.get(key, absent)
        if was != is_now and key not in free:
            changes.append((key, show(was), show(is_now)))
    return changes


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns the config of the run in a folder, {"optim.lr": 0.001, ...}; None if there is none.

    Raises:
      UserError: if the file is damaged.
    """
    path = workdir / _CONFIG
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is no JSON; mend or remove it") from None
