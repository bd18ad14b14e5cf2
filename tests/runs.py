"""What a run leaves in its workdir: written at once, and read without the code under test."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.checkpoint import Checkpoints
from ibot_jax.step import TrainState
from ibot_jax.workdir import open_workdir

PRETRAINING = ("student", "teacher", "centers", "optimizer")
FINETUNING = ("params", "optimizer")


def save_run(folder, config: ConfigDict, state: TrainState, knn_top1=None) -> epath.Path:
    """Writes the workdir of a run with one checkpoint, and returns its path."""
    workdir = open_workdir(str(folder), config, allow_config_change=False)
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(state, knn_top1=knn_top1)
    checkpoints.close()
    return workdir


def restored(workdir, step: int, parts=PRETRAINING) -> dict:
    """Returns every array of a checkpoint, {part: tree}, however many processes saved it."""
    found = {}
    with ocp.PyTreeCheckpointer() as checkpointer:
        for part in parts:
            folder = workdir / "checkpoints" / str(step) / part
            tree = checkpointer.metadata(folder).item_metadata.tree
            arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.PyTreeRestore(tree, restore_args=arrays)
            found[part] = checkpointer.restore(folder, args=args)
    return found
