"""Distillation: a frozen network is the teacher (Oquab et al. 2023, section 5).

The student learns from the targets of a frozen network of any architecture, `frozen.teacher`, by
the losses of iBOT; its moving average is the product. Centers follow the frozen network's outputs.
"""

import dataclasses
from collections.abc import Mapping

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.methods import ibot
from ibot_jax.methods.method import Array, Modules, Networks, Targets
from ibot_jax.methods.views import Views
from ibot_jax.models.architectures import geometry_of


class Distillation(ibot.IBOT):
    """iBOT, but for who is the teacher."""

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Runs the frozen network on whole global views."""
        return super().targets(networks.replace(teacher=networks.frozen["teacher"]), views, now)


def build(config: Section, modules: Modules, plan: Plan) -> Distillation:
    """Builds the method as `ibot.build` does.

    Raises:
      UserError: if there is no frozen network, or its outputs and the student's cannot be compared.
    """
    frozen = modules.frozen.get("teacher")
    if frozen is None:
        raise UserError(
            'method="distillation" needs a teacher; give frozen.teacher a run, or an export with '
            "its head"
        )
    for key in ("prototypes", "patch_prototypes"):
        ours, theirs = getattr(modules.student.head, key), getattr(frozen.head, key)
        if ours != theirs:
            raise UserError(f"head.{key}={ours} is not that of frozen.teacher; use {theirs}")
    ours, theirs = (
        geometry_of(network.backbone).grid(config.data.global_size)
        for network in (modules.student, frozen)
    )
    if ours != theirs:
        raise UserError(
            f"a global view has {ours[0]} x {ours[1]} patches, and for frozen.teacher "
            f"{theirs[0]} x {theirs[1]}; use its model.patch_size"
        )
    learned = ibot.build(config, dataclasses.replace(modules, teacher=frozen), plan)
    return Distillation(**vars(learned))
