"""Losses of how alike the patches of a view are, beside those of a method.

Gram anchoring (DINOv3, section 4.2) keeps the student's patches as alike as they are for a gram
teacher: the teacher as it once was, which sees the view larger, or another frozen network. Patch-
kernel alignment (PaKA, 2509.05606) compares likenesses with those of the teacher.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.losses.gram import gram_loss, resize_patches
from ibot_jax.losses.patch_kernels import patch_kernel_loss
from ibot_jax.methods.method import Modules, Networks
from ibot_jax.methods.views import Views, tokens_of
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import Backbone
from ibot_jax.models.tokens import Tokens

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What is compared; a method asks it for its targets and its terms.

    Attributes:
      anchor: the backbone of the gram teacher; None for the teacher itself.
      gram: options of `gram.gram_loss`; None without that loss.
      tokens: "all", "masked" or "unmasked", those that the gram loss compares.
      antialias: of `gram.resize_patches`.
      kernels: whether there is the loss of patch-kernel alignment.
      loss_weights: of the losses that there are, by name.
    """

    anchor: Backbone | None
    gram: dict[str, Any] | None
    tokens: str
    antialias: bool
    kernels: bool
    loss_weights: dict[str, float]

    @jax.named_scope("likeness")
    def targets(self, networks: Networks, views: Views, teacher: Tokens) -> dict[str, Array]:
        """Returns patch tokens [B * G, N, D] by loss.

        Args:
          networks: of which the frozen "gram" sees `views.gram_views`; while there is none, there
            is no gram loss.
          views: of some rows.
          teacher: tokens of whole global views, which lead with [B * G].
        """
        found, patches = {}, _flat(teacher.patches)
        if self.kernels:
            found["kernel"] = patches
        if self.gram is not None and self.anchor is None:
            found["gram"] = patches
        elif self.gram is not None and "gram" in networks.frozen:
            tokens = tokens_of(self.anchor, networks.frozen["gram"], views.gram_views)
            resized = resize_patches(_exact(tokens.patches), teacher.grid, self.antialias)
            found |= {"gram": _flat(resized), "teacher": patches}
        return found

    @jax.named_scope("likeness")
    def terms(self, targets: dict[str, Array], tokens: Tokens, masks: Array) -> dict[str, Array]:
        """Returns losses, not weighted, and monitors.

        Args:
          targets: of `targets`.
          tokens: the student's of the same views, masked.
          masks: [B, G, h, w] bool.
        """
        terms, patches = {}, _flat(tokens.patches)
        if self.kernels:
            terms["kernel_loss"] = patch_kernel_loss(patches, targets["kernel"])
        if self.gram is not None:
            terms["gram_loss"] = jnp.zeros((), patches.dtype)
        if "gram" in targets:
            used = masks.reshape(len(patches), -1)
            used = {"all": None, "masked": used, "unmasked": ~used}[self.tokens]
            terms["gram_loss"] = gram_loss(patches, targets["gram"], used, **self.gram)
        if "teacher" in targets:
            terms["gram_drift"] = gram_loss(targets["teacher"], targets["gram"])
        return terms


def make_likeness(config: Section, modules: Modules) -> Likeness | None:
    """Builds it from the sections `gram` and `loss` of a run's config; None where neither is on.

    Args:
      config: of the run.
      modules: the networks' architectures.

    Raises:
      UserError: if the gram teacher cuts images into other patches.
    """
    gram, weights = config.gram, {}
    if config.loss.kernel_weight:
        weights["kernel_loss"] = config.loss.kernel_weight
    if gram.weight:
        weights["gram_loss"] = gram.weight
    if not weights:
        return None
    anchor = None
    if gram.weight and gram.teacher == "earlier":
        given = modules.frozen.get("gram")
        anchor = modules.student.backbone if given is None else given.backbone
        ours, theirs = (geometry_of(x).stride for x in (modules.student.backbone, anchor))
        if ours != theirs:
            raise UserError(
                f"frozen.gram has patches of {theirs} x {theirs} pixels, and the student of "
                f"{ours} x {ours}: likenesses of other patches are no target; give a network with "
                "model.patch_size of the student"
            )
    options = dict(level=gram.level, negatives=gram.negatives, normalize=gram.normalize)
    return Likeness(
        anchor,
        options if gram.weight else None,
        gram.tokens,
        gram.antialias,
        bool(config.loss.kernel_weight),
        weights,
    )


def _exact(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _flat(patches: Array) -> Array:
    """Returns patches [..., h, w, D] as [..., N, D], in float32 at least."""
    return _exact(patches.reshape(*patches.shape[:-3], -1, patches.shape[-1]))
