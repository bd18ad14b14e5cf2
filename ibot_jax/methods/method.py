"""What a method is: three functions, and the structs that flow through them.

A step calls `targets`, then differentiates `terms` by the student's parameters, then calls `after`.
It asks no method what it is: a new one is a file beside `ibot.py` with a function `build` that
makes it from the run's config, the architectures and the run's length.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import flax
import flax.linen as nn
import jax

from ibot_jax.methods.views import Views
from ibot_jax.models.head import Head
from ibot_jax.models.parameters import Params
from ibot_jax.optim.schedules import Schedule

Array = jax.Array
Tree = Any  # nested dicts and structs with arrays as leaves


@dataclasses.dataclass(frozen=True)
class Network:
    """The architecture of a network, to which its parameters are passed.

    Attributes:
      backbone: from images to `Tokens`.
      head: from tokens to logits; None of a network whose tokens alone are asked for.
    """

    backbone: nn.Module
    head: Head | None


@dataclasses.dataclass(frozen=True)
class Modules:
    """The architectures of all networks that take part; `Networks` are their parameters.

    Attributes:
      student: what is learned.
      teacher: whose outputs are the targets: the student's moving average, whose head may differ,
        or a frozen network.
      frozen: by name, of any architecture.
    """

    student: Network
    teacher: Network
    frozen: Mapping[str, Network]


@flax.struct.dataclass
class Networks:
    """All parameters that targets come from, by name; no gradient flows through targets.

    Attributes:
      student: as the step finds it.
      teacher: the student's moving average, of before this step.
      frozen: networks of any architecture that no step changes, by name.
      buffers: what the method keeps from step to step, of before this step.
    """

    student: Params
    teacher: Params
    frozen: dict[str, Params]
    buffers: dict[str, Tree]


@flax.struct.dataclass
class Targets:
    """What the student is to predict; no gradient flows into it.

    Attributes:
      rows: a tree of arrays that lead with the images [B, ...], or with their views [B * G, ...].
      shared: a tree of what turns `rows` into targets and is the same for all of them: parameters
        of a last layer, centers, temperatures.
      means: a tree of means over the images; averaged over the whole batch, they are what `after`
        learns of it.
    """

    rows: Tree
    shared: Tree
    means: Tree


class Method(Protocol):
    """What is learned.

    A step sees a batch by the rows of each device, and those perhaps part by part, and averages
    what it finds. So terms and means are means over images. What relates the images of a batch to
    each other is summed over the devices, or gathered from them (`jax.lax.psum`, `all_gather` over
    `mesh.BATCH_AXES`; all devices call it as often), and takes no more than one part,
    `grad_accum_steps`, as `config.relations` has it.

    Attributes:
      modules: the networks' architectures.
      loss_weights: of the losses among the terms, by name. The loss is the sum of the weighted
        losses; the step weighs them, nobody else does.
      schedules: what else changes over a run and is reported, by name.
      buffers: shapes of what the method keeps from step to step, which begins at 0.
    """

    modules: Modules
    loss_weights: Mapping[str, float]
    schedules: Mapping[str, Schedule]
    buffers: dict[str, Tree]

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Returns what the student is to predict of some rows of a batch.

        Args:
          networks: of before this step.
          views: of these rows.
          now: the values of `schedules`.
        """

    def terms(self, student: Params, views: Views, targets: Targets) -> dict[str, Tree]:
        """Returns losses, not weighted, and monitors of some rows, named as in `metrics.METRICS`.

        It is differentiated by `student`.
        """

    def after(self, networks: Networks, means: Tree) -> dict[str, Tree]:
        """Returns the buffers of the next step.

        Args:
          networks: of before this step.
          means: of the targets, over the whole batch.
        """
