"""Parameters of a checkpoint, read without the run that saved it, which may still be going on."""

from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.optimizer import Params


def complete_steps(folder: epath.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, in order; none if it is absent."""
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def find_checkpoint(workdir: epath.Path, which: str) -> tuple[int, float | None]:
    """Finds one of the checkpoints that a run has kept.

    Args:
      workdir: of the run.
      which: "latest", "best" by k-NN (of equally good ones the later), or a step in digits.

    Returns:
      Its step, and the k-NN accuracy, in percent, that was saved with it.

    Raises:
      UserError: if there is no such checkpoint; the message names those that there are.
    """
    folder = workdir / "checkpoints"
    steps = complete_steps(folder)
    if not steps:
        raise UserError(f"--workdir={workdir} holds no complete checkpoint; give that of a run")
    # Read-only, or it would remove what the run is just writing.
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        top1 = {step: (manager.metrics(step) or {}).get("knn_top1") for step in steps}
    names = {"latest": steps[-1]}
    evaluated = [step for step in steps if top1[step] is not None]
    if evaluated:
        names["best"] = max(evaluated, key=lambda step: (top1[step], step))
    elif which == "best":
        raise UserError(
            f"--step=best: no checkpoint in {folder} has a k-NN accuracy, which takes images with "
            f"labels (knn.every, knn.test_split); there are latest, {', '.join(map(str, steps))}"
        )
    names |= {str(step): step for step in steps}
    if which not in names:
        raise UserError(f"--step={which} is not in {folder}; there are {', '.join(names)}")
    return names[which], top1[names[which]]


def read_params(workdir: epath.Path, step: int, who: str, parts: Sequence[str]) -> Params:
    """Reads parameters into the host's memory, whatever devices the run had.

    Args:
      workdir: of the run.
      step: of the checkpoint.
      who: "student" or "teacher".
      parts: "backbone", "head" or both; no more than these is read.

    Returns:
      {part: nested dicts of NumPy arrays, of the dtypes that were saved}.

    Raises:
      UserError: if they cannot be read.
    """
    folder = workdir / "checkpoints" / str(step) / who
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(folder).item_metadata.tree
            wanted = {part: saved[part] for part in parts}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
            return checkpointer.restore(folder, args=args)
    except Exception as error:  # Orbax passes on whatever its threads meet
        raise UserError(
            f"{folder} is damaged, or was removed by its run, which keeps the latest few; try "
            f"another --step ({error})"
        ) from error
