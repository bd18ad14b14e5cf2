"""The student's logits against the teacher's targets, a chunk of tokens at a time.

Only tokens that a loss reads meet the prototypes, and only one chunk of them at a time. A
`Comparison` runs within `over_prototypes`: where the mesh has a tensor axis, on one device's part
of the prototypes. Devices turn over chunks of their own, some more than others, so that no chunk
may wait for another device's: what targets need of the whole batch is in `TeacherHead.offsets`.

Shape letters: B images, G global views, V views, h and w patches, D width, U bottleneck, K
prototypes.
"""

import dataclasses
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp

from ibot_jax.losses import monitors
from ibot_jax.losses.centering import teacher_probs
from ibot_jax.losses.chunked import sum_of_chunks
from ibot_jax.losses.class_tokens import class_loss
from ibot_jax.losses.patches import patch_loss, patch_weights
from ibot_jax.models.head import Head
from ibot_jax.models.parameters import Params
from ibot_jax.models.tokens import Tokens
from ibot_jax.parallel.mesh import TENSOR_AXIS
from ibot_jax.parallel.tensor import is_split_over_tensor, tensor_size

Array = jax.Array
Terms = dict[str, Any]


@flax.struct.dataclass
class TeacherHead:
    """What turns the teacher's unit vectors into targets.

    Attributes:
      params: of the teacher's head.
      offsets: {"class": [K], "patch": [K]}, or only those that are needed: what is subtracted from
        logits before they are sharpened. Centers of before this step, or whatever else a method
        finds per prototype of the whole batch; what it finds per token is a part of `Targets.rows`.
      temps: temperatures by kind, scalars.
    """

    params: Params
    offsets: dict[str, Array]
    temps: dict[str, Array]


def units_of(head: Head, params: Params, tokens: Tokens) -> dict[str, Array | Tokens]:
    """Runs a head on all tokens up to its bottleneck.

    Returns:
      Unit vectors by kind: "class", of class tokens [..., U], and "patch", of all tokens as patch
      tokens.
    """

    def units(kind, rows):
        return head.apply({"params": params}, rows, kind, method="bottleneck")

    # As rows: a TPU pads what has more dimensions.
    of_patches = tokens.with_rows(units("patch", rows_of(tokens)))
    of_class = units("class", tokens.cls) if head.separate else of_patches.cls
    return {"class": of_class, "patch": of_patches}


def mean_logits(head: Head, params: Params, units: Array, kind: str) -> Array:
    """Returns a head's mean output over all tokens of a kind, [..., U] to [K].

    The last layer is linear, so that is its output at their mean: only tokens that a loss reads
    ever meet the prototypes.
    """
    exact = head.clone(dtype=head.param_dtype)
    mean = units.mean(axis=range(units.ndim - 1))
    return exact.apply({"params": params}, mean, method=f"{kind}_logits")


def rows_of(tokens: Tokens) -> Array:
    """Returns tokens of all kinds as rows [T, D]: to leave some out would be to copy the others."""
    return tokens.sequence.reshape(-1, tokens.sequence.shape[-1])


def rows_of_masked(tokens: Tokens, masks: Array) -> Array:
    """Returns which of `rows_of` are masked patches, [T] bool.

    Args:
      tokens: which lead with [B * G].
      masks: [B, G, h, w] bool.
    """
    return tokens.of_patches(masks.reshape(-1, *masks.shape[2:])).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Compares logits of the student's head with targets of the teacher's.

    Attributes:
      student: the student's head.
      teacher: the teacher's head; it has the same prototypes.
      student_temp: the student's temperature.
      max_logits: tokens x prototypes at a time on a device.
      local_weight: of pairs with a local view, see `class_loss`.
      visible_weight: of visible patch tokens in the patch loss, see `patches.patch_weights`.
    """

    student: Head
    teacher: Head
    student_temp: float
    max_logits: int
    local_weight: float = 1.0
    visible_weight: float = 0.0

    @jax.named_scope("class_loss")
    def class_terms(
        self, student: Params, teacher: TeacherHead, tokens: Array, units: Array
    ) -> tuple[Terms, Terms]:
        """Compares class tokens of each view with targets of the other global views.

        Args:
          student: parameters of the student's head.
          teacher: for the targets.
          tokens: [B, V, D] of the student, the global views first.
          units: [B, G, U] of the teacher.

        Returns:
          Terms that are the same on all devices of the tensor axis, and those by prototype.
        """
        over = prototype_axis()

        def chunk(student, tokens, units, teacher, valid):
            def total(by_image):
                return jnp.tensordot(valid.astype(by_image.dtype), by_image, 1, precision="highest")

            logits = self._logits("class", student, tokens)
            targets = self._targets("class", teacher, units)
            soft = jax.lax.stop_gradient(logits) / self.student_temp
            options = self.student_temp, over, self.local_weight
            return total(class_loss(logits, targets, *options)), {
                "student_entropy": total(monitors.entropy_of_logits(soft, over).mean(axis=1)),
                "teacher_entropy": total(monitors.entropy(targets, over).mean(axis=1)),
                "teacher_mean_entropy": total(targets.mean(axis=1)),
                "teacher_views_kl": total(monitors.views_kl(targets, over)),
                "teacher_student_agreement": total(monitors.same_choice(soft, targets, over)),
            }

        images, views = tokens.shape[:2]
        at_once = self.most_tokens("class") // views
        arguments = student, tokens, units, teacher
        if at_once < images:
            loss, sums = sum_of_chunks(chunk, max(at_once, 1), *arguments, None)
        else:
            loss, sums = chunk(*arguments, jnp.ones(images, bool))
        terms = {"class_loss": loss / images} | {name: x / images for name, x in sums.items()}
        by_prototype = {"teacher_mean_entropy": terms.pop("teacher_mean_entropy")}
        return terms, by_prototype

    @jax.named_scope("patch_loss")
    def patch_terms(
        self,
        student: Params,
        teacher: TeacherHead,
        tokens: Tokens,
        units: Tokens,
        masks: Array,
        share: tuple[float, float],
    ) -> Terms:
        """Compares masked patch tokens with the targets of the same tokens, which are not masked.

        Where `visible_weight` is not 0, visible ones are compared, too.

        Args:
          student: parameters of the student's head.
          teacher: for the targets.
          tokens: of the student, which lead with [B * G].
          units: of the teacher, likewise, [..., U].
          masks: [B, G, h, w] bool.
          share: of `masking.masked_share`, by which a chunk has slots; where more are masked,
            another chunk follows.

        Returns:
          Terms that are the same on all devices of the tensor axis.
        """
        over = prototype_axis()

        def chunk(student, tokens, fixed, teacher, valid):
            logits = self._logits("patch", student, tokens)
            targets = self._targets("patch", teacher, fixed["units"])
            weights = fixed["weights"] * valid
            loss = patch_loss(logits, targets, weights, self.student_temp, over)
            return loss, (monitors.entropy(targets, over) * valid).sum()

        if tokens.num_registers != units.num_registers:  # whose rows are not at the same places
            tokens, units = tokens.without_registers(), units.without_registers()
        images, views = masks.shape[:2]
        compared = self.compared(masks)
        slots = self.masked_slots(masks, share)
        weights = patch_weights(
            masks.reshape(images, views, -1), units.sequence.dtype, self.visible_weight
        )
        selected, weights = (
            rows_of_masked(tokens, x.reshape(masks.shape)) for x in (compared, weights)
        )
        fixed = {"units": rows_of(units), "weights": weights}
        loss, entropy = sum_of_chunks(
            chunk, slots, student, rows_of(tokens), fixed, teacher, selected
        )
        number = compared.sum()
        return {
            "patch_loss": loss,
            "teacher_patch_entropy": (entropy / (images * views), number / (images * views)),
            "mask_ratio": masks.mean(),
            "masked_capacity_used": number / slots,
        }

    def compared(self, masks: Array) -> Array:
        """Returns which patches are compared, [B, G, h, w] bool: masked ones, or all."""
        return jnp.ones_like(masks) if self.visible_weight else masks

    def masked_slots(self, masks: Array, share: tuple[float, float]) -> int:
        """Returns the slots of a chunk for the masked tokens of a device, see `patch_terms`."""
        images, views, *grid = masks.shape
        share = (1.0, 0.0) if self.visible_weight else share
        return masked_capacity(share, images * views, math.prod(grid), self.most_tokens("patch"))

    def _logits(self, kind: str, params: Params, tokens: Array) -> Array:
        """Returns the student's logits of tokens, [..., D] to [..., K]."""
        head, variables = _part(self.student), {"params": params}
        units = head.apply(variables, tokens, kind, method="bottleneck")
        return head.apply(variables, units, method=f"{kind}_logits")

    def _targets(self, kind: str, teacher: TeacherHead, units: Array) -> Array:
        """Returns the teacher's targets, [..., U] to probabilities [..., K]."""
        logits = self.teacher_logits(kind, teacher, units)
        return teacher_probs(logits, teacher.offsets[kind], teacher.temps[kind], prototype_axis())

    def teacher_logits(self, kind: str, teacher: TeacherHead, units: Array) -> Array:
        """Returns the teacher's logits, [..., U] to [..., K]."""
        variables = {"params": teacher.params}
        return _part(self.teacher).apply(variables, units, method=f"{kind}_logits")

    def most_tokens(self, kind: str) -> int:
        """Returns how many tokens' logits a device may hold at a time."""
        prototypes = self.student.patch_prototypes if kind == "patch" else self.student.prototypes
        return self.max_logits * tensor_size() // prototypes


def prototype_axis() -> str | None:
    """Returns the axis over which the prototypes are spread, if they are."""
    return TENSOR_AXIS if is_split_over_tensor() else None


def _part(head: Head) -> Head:
    """Returns the head of one device's part of the prototypes."""
    parts = tensor_size()
    return head.clone(
        prototypes=head.prototypes // parts, patch_prototypes=head.patch_prototypes // parts
    )


def masked_capacity(share: tuple[float, float], views: int, patches: int, most: int) -> int:
    """Returns the slots of a chunk for the masked tokens of some views.

    Two standard deviations above their expected number.

    Args:
      share: mean and standard deviation, of `masking.masked_share`.
      views: number of views.
      patches: tokens of a view.
      most: slots that there may be.
    """
    mean, deviation = share
    expected = views * mean + 2 * math.sqrt(views) * deviation
    slots = math.ceil(expected * patches / 64) * 64  # whole tiles of a matrix unit
    return max(min(slots, views * patches, most), 1)
