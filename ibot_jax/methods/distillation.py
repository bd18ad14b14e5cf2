"""Distillation: a frozen network is the teacher (Oquab et al. 2023, section 5).

The student learns from the targets of a frozen network of any architecture, `frozen.teacher`, by
the losses of iBOT; its moving average is the product. Centers follow the frozen network's outputs.
With balanced targets (`loss.targets`) or KoLeo, losses and targets are those of `dinov2`.
"""

import dataclasses
from collections.abc import Mapping

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.methods import dinov2, ibot
from ibot_jax.methods.method import Array, Modules, Networks, Targets
from ibot_jax.methods.views import Views
from ibot_jax.models.architectures import geometry_of


class _OfFrozen:
    """What is the same whatever the losses: who is the teacher."""

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Runs the frozen network on whole global views."""
        return super().targets(networks.replace(teacher=networks.frozen["teacher"]), views, now)


class Distillation(_OfFrozen, ibot.IBOT):
    """iBOT, but for who is the teacher."""


class BalancedDistillation(_OfFrozen, dinov2.DINOv2):
    """DINOv2, but for who is the teacher."""


def build(config: Section, modules: Modules, plan: Plan) -> Distillation | BalancedDistillation:
    """Builds the method as `ibot.build` or `dinov2.build` does.

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
    modules = dataclasses.replace(modules, teacher=frozen)
    if config.loss.targets == "sinkhorn" or config.loss.koleo_weight:
        return BalancedDistillation(**vars(dinov2.build(config, modules, plan)))
    return Distillation(**vars(ibot.build(config, modules, plan)))
