"""The training of a sweep of linear classifiers, epoch by epoch; interrupted, it goes on exactly.

OUT/linear-KEY.npz keeps classifiers, momentum and accuracies after the last whole epoch.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax
import jax
import numpy as np
from jax.sharding import Mesh

from ibot_jax.evaluate.features.cache import Features
from ibot_jax.evaluate.features.extract import FeatureFn
from ibot_jax.evaluate.probes import linear_sweep
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.linear_sweep import Sweep, SweepState
from ibot_jax.parallel.agreement import in_step, same_end
from ibot_jax.parallel.layouts import batch_sharding, num_shards, replicated
from ibot_jax.parallel.processes import is_first
from ibot_jax.parallel.rows import to_global
from ibot_jax.screen.progress import progress, write_line

# Entries of the largest array that counting hits needs on a device: 2**26 of float32 are 256 MiB.
_MAX_ENTRIES = 2**26

Top = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
      sweep: the classifiers.
      feature_fn: (params, images [B, H, W, C] uint8) -> features [B, F].
      params: its parameters, on all devices.
      batches: this process's batches of training images from a step on, {images, labels}.
      test: features of the test split.
      mesh: the devices.
      seed: of the first weights.
    """

    sweep: Sweep
    feature_fn: FeatureFn
    params: Any
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
    test: Features
    mesh: Mesh
    seed: int


def train(task: Task, folder: str, about: dict[str, Any]) -> Top:
    """Trains the classifiers, or finishes their training.

    Args:
      task: what to do.
      folder: where the state is kept.
      about: all that determines the outcome besides `task.sweep`; JSON types only.

    Returns:
      {variant: (top-1, top-5)}, accuracies on the test split after the last epoch, in percent, an
      array each with an entry for each rate.

    Raises:
      UserError: if the state cannot be read or written.
    """
    sweep = task.sweep
    kept = _State(folder, sweep, {**about, "seed": task.seed})
    everywhere, stacked = replicated(task.mesh), batch_sharding(task.mesh)
    init = linear_sweep.make_init(sweep, task.test.values.shape[1])
    key = jax.random.key(task.seed)
    layout = jax.tree.map(lambda x: stacked if x.ndim else everywhere, jax.eval_shape(init, key))
    found = kept.read(jax.eval_shape(init, key))
    if found is None:
        state, top = jax.jit(init, out_shardings=layout)(key), {}
    else:
        state, top = jax.device_put(found[0], layout), found[1]

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(layout, everywhere))
    def step(state, params, batch):
        features = task.feature_fn(params, batch["images"])
        return linear_sweep.make_train_step(sweep, task.mesh)(state, features, batch["labels"])

    gather = jax.jit(lambda state: state, out_shardings=everywhere)
    done = int(state.step) // sweep.steps_per_epoch
    batches = in_step(task.batches(int(state.step))) if done < sweep.epochs else iter(())
    for epoch in range(done + 1, sweep.epochs + 1):
        turns = zip(range(sweep.steps_per_epoch), batches, strict=False)
        for _, (batch, _) in progress(turns, sweep.steps_per_epoch, f"epoch {epoch}"):
            state, _ = step(state, task.params, to_global(batch, task.mesh))
        top = _measure(task, state)
        kept.write(jax.device_get(gather(state)), top)
        if is_first():
            write_line(f"epoch {epoch}/{sweep.epochs}: {best(sweep, top)}", sys.stdout)
    return top


def best(sweep: Sweep, top: Top) -> str:
    """Returns in words which classifier is the best by top-1."""
    top1, name, rate = max(
        (float(accuracy), name, rate)
        for name, (firsts, _) in top.items()
        for accuracy, rate in zip(firsts, sweep.rates, strict=True)
    )
    return f"best top-1 {top1:.2f} % ({name}, lr {rate:g})"


def _measure(task: Task, state: SweepState) -> Top:
    """Returns what `train` does, of the classifiers of now."""
    sweep, number = task.sweep, len(task.test.labels)
    count = _count_program(sweep, task.mesh)
    of_device = sweep.slots // num_shards(task.mesh)
    chunk = min(max(_MAX_ENTRIES // (of_device * sweep.num_classes), 1), number)
    totals = []
    for start in range(0, number, chunk):
        features = np.asarray(task.test.values[start : start + chunk])
        missing = chunk - len(features)  # one shape for every chunk: one compilation
        labels = np.pad(task.test.labels[start : start + chunk], (0, missing), constant_values=-1)
        features = np.pad(features, ((0, missing), (0, 0)))
        totals.append(jax.device_get(count(state.params, features, labels)))
    return jax.tree.map(lambda *hits: 100 * sum(hits)[: len(sweep.rates)] / number, *totals)


@functools.lru_cache(maxsize=2)
def _count_program(sweep: Sweep, mesh: Mesh):
    return jax.jit(linear_sweep.make_count(sweep, mesh), out_shardings=replicated(mesh))


class _State:
    """The state of a sweep and its accuracies, as they are kept from epoch to epoch."""

    def __init__(self, folder: str, sweep: Sweep, about: dict[str, Any]):
        self._rates = len(sweep.rates)
        about = about | dataclasses.asdict(sweep)
        del about["slots"]  # another number of devices may go on
        self._kept = Kept(folder, "linear", about)

    def read(self, like: SweepState) -> tuple[SweepState, Top] | None:
        """Returns what was kept, NumPy arrays of the shapes of `like`; None if there is nothing."""

        def fill_up(array, wanted):
            missing = wanted.shape[0] - array.shape[0] if array.ndim else 0
            return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array

        if (arrays := self._kept.read()) is None:
            return None
        with same_end():
            try:
                tree = flax.traverse_util.unflatten_dict(arrays, sep="/")
                state = flax.serialization.from_state_dict(like, tree["state"])
                state = jax.tree.map(fill_up, state, like)
                return state, {name: (x["0"], x["1"]) for name, x in tree["top"].items()}
            except Exception as error:  # of flax and JAX, of many kinds
                raise self._kept.damaged(error) from error

    def write(self, state: SweepState, top: Top) -> None:
        """Replaces what was kept, at once; the first process does."""
        state = jax.tree.map(lambda x: x[: self._rates] if x.ndim else x, state)
        tree = flax.serialization.to_state_dict({"state": state, "top": top})
        self._kept.write(flax.traverse_util.flatten_dict(tree, sep="/"))
