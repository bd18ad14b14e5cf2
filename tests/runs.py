"""What a run leaves in its workdir: written at once, and read without the code under test."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from ibot_jax.config.flat import as_json, flatten
from ibot_jax.data.sources.identity import Identity
from ibot_jax.methods.state import TrainState
from ibot_jax.runs.checkpoint import Checkpoints
from ibot_jax.runs.completing import complete
from ibot_jax.runs.starting import replace_weights, start_weights
from ibot_jax.runs.workdir import open_workdir
from ibot_jax.weights.history import record_start

PRETRAINING = ("student", "teacher", "centers", "optimizer")
FINETUNING = ("params", "optimizer")


DATA = Identity(images=8, names="0" * 64)


def make_workdir(folder, config: ConfigDict, *, allow: bool = False) -> epath.Path:
    """Writes the workdir of a run that has begun, and returns its path."""
    recorded = as_json(config)
    workdir = open_workdir(str(folder), recorded, DATA, allow_config_change=allow)
    record_start(workdir, recorded, DATA, 0)
    return workdir


def save_run(folder, config: ConfigDict, state: TrainState, knn_top1=None) -> epath.Path:
    """Writes the workdir of a run with one checkpoint, and returns its path."""
    workdir = make_workdir(folder, config)
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


def taken(path, config: ConfigDict, like: TrainState) -> tuple[dict, dict[str, str]]:
    """Returns what a run takes of the weights that a path holds, and what came from where."""
    config = config.copy_and_resolve_references()
    config.init_from = str(path)
    config, origin = complete(config, "/nowhere")
    return start_weights(origin, flatten(config), like)


def started(path, config: ConfigDict, state: TrainState) -> tuple[TrainState, dict[str, str]]:
    """Returns a fresh state with the weights that a path holds, and what came from where."""
    weights, table = taken(path, config, state)
    return replace_weights(state, weights), table
