"""DINO: self-distillation of class tokens across views (Caron et al. 2021, section 3.1).

The teacher sees whole global views, the student global and local ones, none of them masked.
"""

import dataclasses
from collections.abc import Mapping

import jax

from ibot_jax.config.plan import Plan
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.losses.centering import update_center
from ibot_jax.methods.comparison import Comparison, TeacherHead, mean_logits
from ibot_jax.methods.method import Array, Modules, Networks, Targets, Tree
from ibot_jax.methods.views import Views, by_view, student_tokens, tokens_of
from ibot_jax.models.parameters import Params
from ibot_jax.optim.schedules import Schedule, temperature_schedule
from ibot_jax.parallel.tensor import over_prototypes


@dataclasses.dataclass(frozen=True)
class DINO:
    """See `method.Method`.

    Attributes:
      modules: the networks' architectures.
      comparison: of their logits.
      loss_weights: of the one loss.
      schedules: the teacher's temperature.
      buffers: shape of the center.
      center_momentum: share of itself that the center keeps.
    """

    modules: Modules
    comparison: Comparison
    loss_weights: Mapping[str, float]
    schedules: Mapping[str, Schedule]
    buffers: dict[str, Tree]
    center_momentum: float

    def targets(self, networks: Networks, views: Views, now: Mapping[str, Array]) -> Targets:
        """Runs the teacher on global views, up to the unit vectors before its prototypes."""
        backbone, head = self.modules.teacher.backbone, self.modules.teacher.head
        params = networks.teacher
        tokens = by_view(tokens_of(backbone, params, views.global_views).cls, views.global_views)
        units = head.apply({"params": params["head"]}, tokens, method="bottleneck")
        return Targets(
            rows=units,
            shared=TeacherHead(
                params["head"], networks.buffers["centers"], {"class": now["teacher_temp"]}
            ),
            means={"class": mean_logits(head, params["head"], units, "class")},
        )

    def terms(self, student: Params, views: Views, targets: Targets) -> dict[str, Tree]:
        """Runs the student, and both heads on class tokens."""
        whole = views.replace(masks=None)
        _, class_tokens = student_tokens(self.modules.student.backbone, student, whole)
        terms, by_prototype = over_prototypes(self._compare)(
            (student["head"], targets.shared), (class_tokens, targets.rows)
        )
        return terms | by_prototype

    def _compare(self, heads: tuple[Params, TeacherHead], rows: tuple[Array, Array]):
        return self.comparison.class_terms(*heads, *rows)

    def after(self, networks: Networks, means: Tree) -> dict[str, Tree]:
        """Moves the center towards the teacher's mean output."""
        center = networks.buffers["centers"]["class"]
        moved = update_center(center, means["class"], self.center_momentum)
        return {"centers": {"class": moved}}


def build(config: Section, modules: Modules, plan: Plan) -> DINO:
    """Builds the method from the section `loss` of a run's config.

    Args:
      config: of the run.
      modules: the networks' architectures.
      plan: the run's length.

    Raises:
      UserError: if a head has a last layer for patch tokens, which nothing would train, or the one
        loss weighs nothing.
    """
    loss, head = config.loss, modules.teacher.head
    if not loss.class_weight:
        raise UserError(
            'loss.class_weight=0 leaves method="dino" nothing to learn from; make it positive'
        )
    of_patches = {"gram.weight": config.gram.weight, "loss.kernel_weight": loss.kernel_weight}
    for key, weight in of_patches.items():
        if weight:
            raise UserError(f'{key}={weight} is of patches, which method="dino" has not; use 0')
    for key, of_network in (("shared", modules.student.head), ("shared_teacher", head)):
        if not of_network.shared:
            raise UserError(
                f'head.{key}=False makes a last layer for patch tokens, which method="dino" does '
                "not train; set it to true"
            )
    return DINO(
        modules,
        Comparison(
            modules.student.head, head, loss.student_temp, loss.max_logits, loss.local_weight
        ),
        loss_weights={"class_loss": loss.class_weight},
        schedules={
            "teacher_temp": temperature_schedule(
                loss.teacher_temp_start,
                loss.teacher_temp,
                warmup=loss.teacher_temp_warmup,
                plan=plan,
            )
        },
        buffers={"centers": {"class": jax.ShapeDtypeStruct((head.prototypes,), head.param_dtype)}},
        center_momentum=loss.center_momentum,
    )
