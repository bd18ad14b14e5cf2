"""iBOT: image BERT pre-training with an online tokenizer (paper, section 3).

The teacher sees whole global views, the student masked global ones and local ones. Class tokens are
compared across the views of an image, masked patch tokens with the teacher's of the same view.
"""

import dataclasses
from collections.abc import Mapping

import jax

from ibot_jax.config.masking import masked_share
from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.losses.centering import update_center
from ibot_jax.methods.comparison import Comparison, TeacherHead, mean_logits, units_of
from ibot_jax.methods.likeness import Likeness, make_likeness
from ibot_jax.methods.method import Array, Modules, Networks, Targets, Tree
from ibot_jax.methods.views import Views, by_view, student_tokens, tokens_of
from ibot_jax.models.parameters import Params
from ibot_jax.models.tokens import Tokens
from ibot_jax.optim.schedules import Schedule, temperature_schedule
from ibot_jax.parallel.tensor import over_prototypes


@dataclasses.dataclass(frozen=True)
class IBOT:
    """See `method.Method`.

    Attributes:
      modules: the networks' architectures.
      comparison: of their logits.
      loss_weights: of both losses.
      schedules: the teacher's temperatures, for class and for patch tokens.
      buffers: shapes of the centers.
      center_momentum: share of themselves that the centers keep.
      masked: mean and standard deviation of the share of patches that is masked.
      likeness: of patches, compared besides; None without.
    """

    modules: Modules
    comparison: Comparison
    loss_weights: Mapping[str, float]
    schedules: Mapping[str, Schedule]
    buffers: dict[str, Tree]
    center_momentum: float
    masked: tuple[float, float]
    likeness: Likeness | None

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Runs the teacher on whole global views, up to the unit vectors before its prototypes."""
        backbone, head = self.modules.teacher.backbone, self.modules.teacher.head
        params = networks.teacher
        tokens = tokens_of(backbone, params, views.global_views)
        units = units_of(head, params["head"], tokens)
        means = {
            "class": mean_logits(head, params["head"], units["class"], "class"),
            "patch": mean_logits(head, params["head"], units["patch"].patches, "patch"),
        }
        temps = {"class": now["teacher_temp"], "patch": now["teacher_patch_temp"]}
        shared = TeacherHead(params["head"], networks.buffers["centers"], temps)
        rows = units | self.beside(networks, views, tokens)
        return Targets(rows=rows, shared=shared, means=means)

    def terms(self, student: Params, views: Views, targets: Targets) -> dict[str, Tree]:
        """Runs the student, and both heads on class tokens and on masked patch tokens."""
        tokens, class_tokens = student_tokens(self.modules.student.backbone, student, views)
        return self.comparisons(student, tokens, class_tokens, views.masks, targets)

    def beside(self, networks: Networks, views: Views, tokens: Tokens) -> dict[str, Tree]:
        """Returns targets besides those of the heads, from the teacher's tokens."""
        if self.likeness is None:
            return {}
        return {"likeness": self.likeness.targets(networks, views, tokens)}

    def comparisons(
        self, student: Params, tokens: Tokens, class_tokens: Array, masks: Array, targets: Targets
    ) -> dict[str, Tree]:
        """Compares tokens of `student_tokens` with targets, by both heads and by likenesses."""
        units = {kind: targets.rows[kind] for kind in ("class", "patch")}
        rows = {"class": class_tokens, "tokens": tokens, "masks": masks, "units": units}
        heads = student["head"], targets.shared
        terms, by_prototype = over_prototypes(self._compare)(heads, rows)
        if self.likeness is not None:
            terms |= self.likeness.terms(targets.rows["likeness"], tokens, masks)
        return terms | by_prototype

    def _compare(self, heads: tuple[Params, TeacherHead], rows: dict[str, Tree]):
        units, masks = rows["units"], rows["masks"]
        terms, by_prototype = self.comparison.class_terms(
            *heads, rows["class"], by_view(units["class"], masks)
        )
        terms |= self.comparison.patch_terms(
            *heads, rows["tokens"], units["patch"], masks, self.masked
        )
        return terms, by_prototype

    def after(self, networks: Networks, means: Tree) -> dict[str, Tree]:
        """Moves the centers towards the teacher's mean outputs."""
        centers = networks.buffers["centers"]
        moved = {
            kind: update_center(centers[kind], mean, self.center_momentum)
            for kind, mean in means.items()
        }
        return {"centers": moved}


def build(config: Section, modules: Modules, plan: Plan) -> IBOT:
    """Builds the method from the sections `loss`, `masks` and `gram` of a run's config.

    Args:
      config: of the run.
      modules: the networks' architectures.
      plan: the run's length.
    """
    loss, masks, head = config.loss, config.masks, modules.teacher.head
    likeness = make_likeness(config, modules)
    weights = {"class_loss": loss.class_weight, "patch_loss": loss.patch_weight}
    rise = dict(warmup=loss.teacher_temp_warmup, plan=plan)
    return IBOT(
        modules,
        Comparison(
            modules.student.head,
            head,
            loss.student_temp,
            loss.max_logits,
            loss.local_weight,
            loss.visible_weight,
        ),
        loss_weights=weights | (likeness.loss_weights if likeness else {}),
        schedules={
            "teacher_temp": temperature_schedule(
                loss.teacher_temp_start, loss.teacher_temp, **rise
            ),
            "teacher_patch_temp": temperature_schedule(
                loss.teacher_patch_temp_start, loss.teacher_patch_temp, wait=masks.start, **rise
            ),
        },
        buffers={
            "centers": {
                "class": jax.ShapeDtypeStruct((head.prototypes,), head.param_dtype),
                "patch": jax.ShapeDtypeStruct((head.patch_prototypes,), head.param_dtype),
            }
        },
        center_momentum=loss.center_momentum,
        masked=masked_share(masks),
        likeness=likeness,
    )
