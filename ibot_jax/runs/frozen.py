"""Networks of a run that no step changes: read once, kept in the workdir, sharded as the state is.

    frozen/NAME.npz   the network that `frozen.NAME` names, an export with its head

A resumed run reads its copy, so what the config names may be gone by then. No checkpoint holds it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from ibot_jax.methods.method import Network
from ibot_jax.models.build import build_backbone, build_head, param_dtype
from ibot_jax.parallel.layouts import state_sharding
from ibot_jax.parallel.processes import is_first
from ibot_jax.weights.export import own_card
from ibot_jax.weights.load import load
from ibot_jax.weights.model import Model
from ibot_jax.weights.write import write_npz

_READ_FROM = "read_from"  # in the description of the copy


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The frozen networks of a run, by name.

    Attributes:
      modules: their architectures.
      params: their parameters, on the devices.
    """

    modules: dict[str, Network]
    params: dict[str, Any]


def read_frozen(
    paths: Mapping[str, str], dtype: str, workdir: epath.Path, mesh: jax.sharding.Mesh
) -> Frozen:
    """Reads networks, and keeps a copy of each.

    Args:
      paths: by name, the section `frozen` of a config; "" for none.
      dtype: of the run's computation.
      workdir: of the run.
      mesh: the devices.

    Raises:
      UserError: if a network cannot be read, or has no head.
    """
    frozen = Frozen({}, {})
    for name, path in paths.items():
        if not path:
            continue
        model, params = _read(path, workdir / "frozen" / f"{name}.npz")
        described = model.config
        backbone = build_backbone(described.model, described.data.global_size, dtype)
        is_teacher = model.facts.get("weights") != "student"
        head = build_head(described.head, dtype, teacher=is_teacher)
        frozen.modules[name] = Network(backbone, head)
        frozen.params[name] = jax.tree.map(
            lambda x, layout: jax.make_array_from_callback(x.shape, layout, x.__getitem__),
            jax.tree.map(lambda x: x.astype(param_dtype(dtype)), params),
            state_sharding(params, mesh),
        )
    return frozen


def _read(path: str, copy: epath.Path) -> tuple[Model, Any]:
    if copy.exists():
        model, params = load(str(copy), head=True)
        if model.facts.get(_READ_FROM) == path:
            return model, params
    model, params = load(path, head=True)
    if is_first():
        description = model.description(head=True) | {_READ_FROM: path}
        card = own_card(copy.name, "npz", params, description, "", [])
        write_npz(copy, params, description, card)
    return model, params
