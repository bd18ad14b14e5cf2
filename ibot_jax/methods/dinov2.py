"""DINOv2: iBOT with targets balanced over the batch, and images spread evenly (Oquab et al. 2023).

Losses and networks are iBOT's. What differs, each by its key:

- Targets are those of Sinkhorn and Knopp over the whole batch, of class tokens and of masked patch
  tokens apart (`loss.targets`). With centers, that of patches is the mean over masked tokens.
- The student's class tokens of each global view are spread evenly (KoLeo, `loss.koleo_weight`).
- The teacher's head sees class tokens and masked patch tokens only.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.losses.chunked import map_chunks
from ibot_jax.losses.koleo import koleo
from ibot_jax.losses.sinkhorn import sinkhorn_offsets
from ibot_jax.methods import ibot
from ibot_jax.methods.comparison import (
    TeacherHead,
    mean_logits,
    prototype_axis,
    rows_of,
    rows_of_masked,
)
from ibot_jax.methods.method import Array, Modules, Networks, Targets, Tree
from ibot_jax.methods.views import Views, by_view, student_tokens, tokens_of
from ibot_jax.models.parameters import Params
from ibot_jax.models.tokens import Tokens
from ibot_jax.parallel.mesh import BATCH_AXES
from ibot_jax.parallel.tensor import over_prototypes

Units = dict[str, Array | Tokens]


@dataclasses.dataclass(frozen=True)
class DINOv2(ibot.IBOT):
    """See `method.Method`; attributes besides those of `IBOT`.

    Attributes:
      turns: of Sinkhorn and Knopp; 0 for centers.
      koleo: from class tokens [B, D] to the loss that spreads them, and their nearest distance;
        None without.
    """

    turns: int
    koleo: functools.partial | None

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Runs the teacher on whole global views, and its head on what the losses read."""
        params, masks = networks.teacher, views.masks
        tokens = tokens_of(self.modules.teacher.backbone, params, views.global_views)
        masked = rows_of_masked(tokens, self.comparison.compared(masks))
        units = self._units(params["head"], tokens, masked, masks)
        rows = units | self.beside(networks, views, tokens)
        temps = {"class": now["teacher_temp"], "patch": now["teacher_patch_temp"]}
        shared = TeacherHead(params["head"], networks.buffers.get("centers", {}), temps)
        if not self.turns:
            means = self._means(shared, units, masked)
            return Targets(rows=rows, shared=shared, means=means)
        balance = functools.partial(self._balance, slots=self.slots(masks))
        unequal, offsets = over_prototypes(balance)(shared, (units, masked))
        return Targets(rows=rows, shared=shared.replace(offsets=offsets), means=unequal)

    def slots(self, masks: Array) -> int:
        """Returns how many masked tokens a device compares at a time."""
        return self.comparison.masked_slots(masks, self.masked)

    def _units(self, params: Params, tokens: Tokens, masked: Array, masks: Array) -> Units:
        """Runs the teacher's head up to its bottleneck, on class tokens and on masked patches."""

        def units(rows, kind):
            head = self.modules.teacher.head
            return head.apply({"params": params}, rows, kind, method="bottleneck")

        of_patches = functools.partial(units, kind="patch")
        rows = map_chunks(of_patches, self.slots(masks), rows_of(tokens), masked)
        return {"class": units(tokens.cls, "class"), "patch": tokens.with_rows(rows)}

    def _means(self, teacher: TeacherHead, units: Units, masked: Array) -> Tree:
        """Returns the mean outputs of the batch's class tokens, and of its masked patch tokens."""
        head, params = self.modules.teacher.head, teacher.params
        total, number = jax.lax.psum(
            (jnp.where(masked[:, None], rows_of(units["patch"]), 0).sum(axis=0), masked.sum()),
            BATCH_AXES,
        )
        mean = total / jnp.maximum(number, 1)
        outputs = mean_logits(head, params, mean[None], "patch")
        of_patches = jnp.where(number > 0, outputs, teacher.offsets["patch"])
        return {"class": mean_logits(head, params, units["class"], "class"), "patch": of_patches}

    @jax.named_scope("sinkhorn")
    def _balance(self, teacher: TeacherHead, rows: tuple[Units, Array], slots: int):
        """Returns offsets by kind, and how unequally tokens fell on the prototypes."""
        units, masked = rows
        tokens = {
            "class": (units["class"], None, self.comparison.most_tokens("class")),
            "patch": (rows_of(units["patch"]), masked, slots),
        }
        unequal, offsets = {}, {}
        for kind, (rows, selected, chunk) in tokens.items():
            offsets[kind], unequal[f"sinkhorn_{kind}_error"] = sinkhorn_offsets(
                functools.partial(self.comparison.teacher_logits, kind, teacher),
                rows,
                selected,
                teacher.temps[kind],
                chunk=max(min(chunk, len(rows)), 1),
                turns=self.turns,
                over=prototype_axis(),
                across=BATCH_AXES,
            )
        return unequal, offsets

    def terms(self, student: Params, views: Views, targets: Targets) -> dict[str, Tree]:
        """Runs the student, both heads, and spreads the class tokens of each global view."""
        tokens, class_tokens = student_tokens(self.modules.student.backbone, student, views)
        terms = self.comparisons(student, tokens, class_tokens, views.masks, targets)
        if self.koleo:
            terms |= self._spread(by_view(tokens.cls, views.global_views))
        return terms | (targets.means if self.turns else {})

    @jax.named_scope("koleo")
    def _spread(self, class_tokens: Array) -> dict[str, Array]:
        """Sums KoLeo of each global view, [B, G, D]."""
        of_views = [self.koleo(tokens) for tokens in class_tokens.swapaxes(0, 1)]
        losses, distances = zip(*of_views, strict=True)
        return {"koleo_loss": sum(losses), "nearest_distance": sum(distances) / len(distances)}

    def after(self, networks: Networks, means: Tree) -> dict[str, Tree]:
        """Moves the centers, if there are any."""
        return {} if self.turns else super().after(networks, means)


def build(config: Section, modules: Modules, plan: Plan) -> DINOv2:
    """Builds the method from the sections `loss` and `masks` of a run's config.

    Args:
      config: of the run.
      modules: the networks' architectures.
      plan: the run's length.
    """
    loss, parent = config.loss, ibot.build(config, modules, plan)
    values = dict(vars(parent))
    balanced = loss.targets == "sinkhorn"
    if balanced:
        values["buffers"] = {}
    spread = None
    if loss.koleo_weight:
        values["loss_weights"] = {**parent.loss_weights, "koleo_loss": loss.koleo_weight}
        group = loss.koleo_group or config.batch_size
        spread = functools.partial(
            koleo, group=group, nearest=loss.koleo_nearest, across=BATCH_AXES
        )
    return DINOv2(**values, turns=loss.sinkhorn_turns if balanced else 0, koleo=spread)
