"""The kernels of a run: those that compute here what their definitions say, at its own shapes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ibot_jax.config.plan import Plan
from ibot_jax.kernels.check import compare
from ibot_jax.kernels.choice import Kernels
from ibot_jax.kernels.color_table import COLUMNS
from ibot_jax.models.geometry import geometry_of
from ibot_jax.parallel.agreement import gather
from ibot_jax.parallel.layouts import batch_sharding, replicated
from ibot_jax.runs.training import state_layout

_WORDS = 160  # characters of a reason that processes tell each other


@dataclasses.dataclass(frozen=True)
class Proven:
    """A step, and who computes it.

    Attributes:
      step: jitted; it is traced and not compiled.
      kernels: that it may take.
      used: names of those that it takes; XLA computes the rest.
      refused: by name of a kernel that some process found wanting, the reason.
    """

    step: jax.stages.Wrapped
    kernels: Kernels
    used: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        """Returns in words who computes."""
        if not self.used:
            return "xla"
        return f"{', '.join(self.used)}; they compute here what XLA does"

    def warnings(self) -> dict[str, str]:
        """Returns by name what is to be said of the refused ones."""
        return {
            name: f"the kernel {name} is not taken, for {reason}; XLA computes its part"
            for name, reason in self.refused.items()
        }


def prove(
    make_step: Callable[[Kernels], jax.stages.Wrapped], arguments: tuple[Any, ...], kernels: Kernels
) -> Proven:
    """Returns a step with those kernels that agree with their definitions on every process.

    Each kernel that the step takes is compared in each of its uses, before the step is compiled.

    Args:
      make_step: returns the jitted step that may take some kernels.
      arguments: shapes of the step's.
      kernels: that may be taken, as far as they agree.
    """
    checked, refused = set(), {}
    while True:
        uses = []
        step = make_step(dataclasses.replace(kernels, uses=uses))
        if not kernels.names:
            return Proven(step, kernels, (), refused)
        failed = None
        try:
            step.trace(*arguments)  # which its first call does not repeat
        except Exception as error:  # perhaps of a kernel, which then fails alone, too
            failed = error
        uses = dict.fromkeys(uses)
        own = {}
        for name, spec in uses:
            if (name, spec) not in checked and name not in own:
                checked.add((name, spec))
                if problem := compare(name, spec, kernels.device).problem:
                    own[name] = problem
        found = _of_all_processes(own)
        if not found:
            if failed:
                raise failed
            used = tuple(sorted({name for name, _ in uses}))
            return Proven(step, kernels, used, refused)
        refused |= found
        kernels = kernels.without(*found)


def step_arguments(config: ConfigDict, plan: Plan, mesh: Mesh) -> tuple[Any, ...]:
    """Returns shapes and layouts of a step's arguments: state, batch and key."""
    data, grid = config.data, geometry_of(config.model).grid(config.data.global_size)
    arrays = {"masks": ((data.global_views, *grid), bool)}
    for kind in ("global", "local"):
        views = data[f"{kind}_views"]
        pixels = (views, *data[f"{kind}_size"], data.channels)
        arrays[f"{kind}_views"] = (pixels, jnp.uint8)
        if data.augment == "device":
            arrays[f"{kind}_colors"] = ((views, len(COLUMNS)), jnp.float32)
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *shape), dtype, sharding=batch_sharding(mesh)
        )
        for name, (shape, dtype) in arrays.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
    return state_layout(config, plan, mesh), batch, key


def _of_all_processes(refused: dict[str, str]) -> dict[str, str]:
    lines = [f"{name}\t{reason[:_WORDS]}" for name, reason in refused.items()]
    told = b"\n".join(gather("\n".join(lines).encode())).decode(errors="replace")
    return dict(line.split("\t", 1) for line in reversed(told.splitlines()) if "\t" in line)
