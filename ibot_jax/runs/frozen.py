"""Networks of a run that no step changes: read once, kept in the workdir, sharded as the state is.

    frozen/NAME.npz   the network that `frozen.NAME` names, as an export, that of a teacher with its
                      head; what is named may be of another project, too

A resumed run reads its copy, so what the config names may be gone by then. No checkpoint holds it.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from ibot_jax.config.defaults import KEYS
from ibot_jax.config.flat import Flat, flatten
from ibot_jax.config.keys import Kind
from ibot_jax.config.problems import refuse, stated
from ibot_jax.errors import UserError, about_key
from ibot_jax.methods.method import Network
from ibot_jax.methods.state import Params
from ibot_jax.models.build import param_dtype
from ibot_jax.parallel.agreement import first_says, same_end
from ibot_jax.parallel.layouts import state_sharding
from ibot_jax.parallel.processes import is_first
from ibot_jax.runs.memory import memory_problems
from ibot_jax.weights.export import own_card
from ibot_jax.weights.foreign.architecture import Known
from ibot_jax.weights.foreign.read import read_model
from ibot_jax.weights.load import load
from ibot_jax.weights.model import Model
from ibot_jax.weights.write import write_npz

_READ_FROM = "read_from"  # in the description of the copy
# What a file does not tell, no key of a config does: an export by `convert` tells it.
_FLAGS = re.compile(r"(?=--(heads|norm-eps|grid|mean|std|allow)\b)")
_HEADLESS = ("gram",)  # of which the patch tokens alone are compared


@dataclasses.dataclass(frozen=True)
class FrozenNetworks:
    """The frozen networks of a run, by name.

    Attributes:
      modules: their architectures.
      params: their parameters, on the devices.
    """

    modules: dict[str, Network]
    params: dict[str, Any]


def read_frozen(
    flat: Flat, workdir: epath.Path, mesh: jax.sharding.Mesh, *, resumed: bool
) -> FrozenNetworks:
    """Reads networks, and keeps a copy of each; all processes read that copy.

    Args:
      flat: the config of the run; `frozen.NAME` is where a network is, "" for none.
      workdir: of the run.
      mesh: the devices.
      resumed: whether the run has a checkpoint. If not, a copy is of a start that failed, and what
        the config names may be another file by now.

    Raises:
      UserError: if a network cannot be read, has no head where one is needed, was trained on other
        pixels (`data.mean`, `data.std`, `data.channels`), is not of the architecture of what is to
        follow it, or does not fit into memory beside the state.
    """
    paths = {
        key.removeprefix("frozen."): path
        for key, path in flat.items()
        if key.startswith("frozen.") and path
    }
    for name, path in paths.items():
        copy, kept = workdir / "frozen" / f"{name}.npz", False
        with same_end():
            if is_first():
                kept = resumed and _is_copy_of(copy, path)
        if not first_says(kept):
            with same_end():
                _keep(path, copy, f"frozen.{name}")
    with same_end():
        read = {
            name: load(str(workdir / "frozen" / f"{name}.npz"), head=name not in _HEADLESS)
            for name in paths
        }
        refuse(problem for name in read for problem in _pixel_problems(flat, name, read[name][0]))
        if "gram" in read and flat["gram.every"]:
            refuse(_problems_of_updates(flat, read["gram"][0]))
        sizes = {
            name: sum(leaf.size for leaf in jax.tree.leaves(params))
            for name, (_, params) in read.items()
        }
        refuse(memory_problems(flat, sizes))
    return _place(read, flat["dtype"], mesh)


def _pixel_problems(flat: Flat, name: str, model: Model) -> Iterator[str]:
    """Yields what of the run's pixels the network does not know: all networks see the same."""
    for key in ("channels", "mean", "std"):
        theirs = getattr(model.config.data, key)
        if flat[f"data.{key}"] != theirs:
            problem = f"is not what frozen.{name} was trained with; use {theirs!r}"
            yield stated(flat, f"data.{key}", problem)


def _problems_of_updates(flat: Flat, model: Model) -> Iterator[str]:
    """Yields in what the first gram teacher is no such network as the teacher, the next one."""
    theirs = flatten(model.config)
    for key, entry in KEYS.items():
        if key.startswith("model.") and entry.kind is Kind.LEARNED and flat[key] != theirs[key]:
            yield (
                f"frozen.gram has {key}={theirs[key]!r}, not {flat[key]!r} as the teacher, which "
                'takes its place; set gram.every="", or give a network of the same architecture'
            )
            return


def _place(
    read: dict[str, tuple[Model, Params]], dtype: str, mesh: jax.sharding.Mesh
) -> FrozenNetworks:
    frozen = FrozenNetworks({}, {})
    for name, (model, params) in read.items():
        model.config.dtype = dtype
        head = None if name in _HEADLESS else model.head
        frozen.modules[name] = Network(model.backbone, head)
        frozen.params[name] = jax.tree.map(
            lambda x, layout: jax.make_array_from_callback(x.shape, layout, x.__getitem__),
            jax.tree.map(lambda x: x.astype(param_dtype(dtype)), params),
            state_sharding(params, mesh),
        )
    return frozen


def _is_copy_of(copy: epath.Path, path: str) -> bool:
    return copy.exists() and load(str(copy))[0].facts.get(_READ_FROM) == path


def _keep(path: str, copy: epath.Path, key: str) -> None:
    """Writes the copy of a network; its description says of which step it is.

    All processes read, as Orbax wants it; they may find different checkpoints of a run that goes
    on. The copy is what the first one found.
    """
    with about_key(key, path):
        head = copy.stem not in _HEADLESS
        try:
            found = read_model(path, weights="teacher", step="latest", head=head, known=Known())
        except UserError as error:
            raise UserError(_FLAGS.sub("ibot_jax.convert ", str(error))) from error
        (params,) = (jax.tree.map(np.asarray, params) for params in found.params.values())
    if is_first():
        description = found.description | {_READ_FROM: path}
        card = own_card(copy.name, "npz", params, description, "", [])
        write_npz(copy, params, description, card)
