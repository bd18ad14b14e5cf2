"""The folder that a run writes: its path, and the config that it belongs to.

    WORKDIR/config.json        the run's config
    WORKDIR/history.json       which config and which images held for which steps (see `history`)
    WORKDIR/metrics.jsonl      one JSON object a line (see `metrics`)
    WORKDIR/tensorboard/       the same for TensorBoard
    WORKDIR/checkpoints/STEP/  (see `checkpoint`)

All but the checkpoints is written by the first process alone.
"""

import json
import secrets
import time

from etils import epath

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat
from ibot_jax.config.keys import Keys, Kind, of_kind
from ibot_jax.data.sources.identity import Identity
from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import first_text, wait_for_all
from ibot_jax.parallel.processes import is_first
from ibot_jax.weights.checkpoints import complete_steps, is_checkpoint
from ibot_jax.weights.history import data_of_run, read_config

_VISIBLE_SECONDS = 60  # network file systems may remember for so long that a file was absent


def open_workdir(
    path: str,
    config: Flat,
    data: Identity,
    *,
    allow_config_change: bool,
    flag: str = "--workdir",
    data_key: str = "data.source",
    keys: Keys = KEYS,
) -> epath.Path:
    """Makes sure that a run with this config and data may write to `path`.

    What is there belongs to a run only where there is a checkpoint: a start that failed before is
    no run. Nothing is recorded yet, see `history.record_start`.

    Args:
      path: a local folder or any that etils.epath writes (gs://...); made if missing.
      config: of the run, as `flat.as_json` has it.
      data: which images it trains on.
      allow_config_change: accept a folder that belongs to another config, or to other images.
      flag: that names the folder on the command line, for errors.
      data_key: that names the images, likewise.
      keys: of the config.

    Returns:
      The absolute path.

    Raises:
      UserError: if the folder cannot be written, or belongs to a run with another config, or on
        other images.
    """
    workdir = absolute_path(path)
    if is_checkpoint(workdir) and (workdir / "_CHECKPOINT_METADATA").exists():
        run = workdir.parent.parent
        raise UserError(f"{flag}={path} is a checkpoint; give the folder of its run, {run}")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        recorded, known = read_config(workdir), data_of_run(workdir)
        if complete_steps(workdir / "checkpoints") and not allow_config_change:
            changes = [] if recorded is None else differences(recorded, config, keys)
            _refuse_other_config(workdir, changes, flag)
            _refuse_other_data(workdir, known, data, flag, data_key)
        if is_first():
            for folder in (workdir, workdir / "checkpoints"):  # which may be someone else's
                if folder.exists():
                    probe = folder / f".probe.{secrets.token_hex(4)}"
                    probe.write_text("")
                    probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{flag}={path} cannot be written ({reason}); choose another folder"
        ) from error
    return workdir


def _refuse_other_config(
    workdir: epath.Path, changes: list[tuple[str, str, str]], flag: str
) -> None:
    if changes:
        listed = "; ".join(f"{key} was {was}, now {now}" for key, was, now in changes)
        raise UserError(
            f"{workdir} belongs to a run with another config: {listed}; choose another {flag}, or "
            "continue with the new config by --allow_config_change"
        )


def _refuse_other_data(
    workdir: epath.Path, known: Identity | None, data: Identity, flag: str, key: str
) -> None:
    if known is not None and known != data:
        raise UserError(
            f"{workdir} belongs to a run on other images: {key} had {known['images']:,}, and has "
            f"{data['images']:,} now{_other_names(known, data)}; restore them, choose another "
            f"{flag}, or continue with these by --allow_config_change"
        )


def _other_names(known: Identity, data: Identity) -> str:
    return ", of other names" if known["images"] == data["images"] else ""


def require_shared(workdir: epath.Path) -> None:
    """Waits until all processes see what the first one writes to the workdir.

    Raises:
      UserError: on all of them, if one never does.
    """
    token = workdir / f".shared.{first_text(secrets.token_hex(4))}"
    deadline = time.monotonic() + _VISIBLE_SECONDS

    def seen() -> bool:
        if is_first() and not token.exists():
            token.write_text("")
        if token.exists():
            return True
        if time.monotonic() > deadline:
            raise UserError(
                f"--workdir={workdir} is not the same folder on all hosts; choose one on storage "
                "that they share"
            )
        return False

    try:
        wait_for_all(seen)
    finally:
        if is_first():
            token.unlink(missing_ok=True)


def differences(recorded: Flat, now: Flat, keys: Keys = KEYS) -> list[tuple[str, str, str]]:
    """Lists what a continued run may not change silently.

    Args:
      recorded: what config.json holds, {"optim.lr": 0.001, ...}.
      now: the same of the config of now.
      keys: of the config, which know what may change.

    Returns:
      (key, recorded value, value of now) of each key that differs and may not.
    """
    absent = object()

    def show(value):
        return "absent" if value is absent else json.dumps(value)

    free, changes = of_kind(keys, Kind.EXECUTED, Kind.REPORTED), []
    for key in sorted(recorded.keys() | now.keys()):
        # What the run's version did not have yet was as it is by default.
        default = json.loads(json.dumps(keys[key].default)) if key in keys else absent
        was, is_now = recorded.get(key, default), now.get(key, absent)
        if was != is_now and key not in free:
            changes.append((key, show(was), show(is_now)))
    return changes
