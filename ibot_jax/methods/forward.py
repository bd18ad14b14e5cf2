"""What teacher and student say of a batch, up to the last layer.

Shape letters: B batch, G global views, L local views, V = G + L, H and W pixels, h and w patches,
N = h * w, D width, K prototypes, U bottleneck.
"""

import jax
import jax.numpy as jnp

from ibot_jax.models.head import Head
from ibot_jax.models.vit import ViT

Array = jax.Array
Params = dict  # {"backbone": ..., "head": ...}, nested dicts with arrays as leaves


def normalize(views: Array, mean: tuple, std: tuple, dtype: jnp.dtype) -> Array:
    """Normalises uint8 pixels [..., C] to `dtype`; floating views are taken as normalised."""
    if views.dtype == jnp.uint8:
        views = standardize(views.astype(jnp.float32) / 255, mean, std)
    return views.astype(dtype)


def standardize(pixels: Array, mean: tuple, std: tuple) -> Array:
    """Normalises floating pixels [..., C] from 0 to 1, in float32 (float64 for float64)."""
    # bfloat16 would round the mean and standard deviation first.
    pixels = pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32))
    return (pixels - jnp.array(mean)) / jnp.array(std)


def _flat(x: Array | None) -> Array | None:
    """Joins the axes of images and of their views, [B, V, ...] to [B * V, ...]; None stays None."""
    return None if x is None else x.reshape(-1, *x.shape[2:])


def teacher_forward(
    backbone: ViT, head: Head, params: Params, views: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Runs the teacher on whole global views.

    The centers need the mean output over all tokens. The last layer is linear, so that is its
    output at their mean: only tokens that a loss reads ever meet the prototypes.

    Args:
      backbone: the backbone module.
      head: the teacher's head module.
      params: the teacher's parameters.
      views: [B, G, H, W, C] normalised.

    Returns:
      Unit bottleneck vectors [B * G, 1 + N, U], the class token's first, and the mean outputs over
      all class tokens and over all patch tokens {"class": [K], "patch": [K]}.
    """
    tokens = backbone.apply({"params": params["backbone"]}, _flat(views)).sequence()
    variables = {"params": params["head"]}
    # As rows: a TPU pads what has more dimensions.
    units = head.apply(variables, tokens.reshape(-1, tokens.shape[-1]), method="bottleneck")
    units = units.reshape(*tokens.shape[:2], -1)
    exact = head.clone(dtype=head.param_dtype)
    means = {
        kind: exact.apply(variables, unit.mean(axis=range(unit.ndim - 1)), method=f"{kind}_logits")
        for kind, unit in (("class", units[:, 0]), ("patch", units[:, 1:]))
    }
    return units, means


def student_forward(
    backbone: ViT,
    params: Params,
    global_views: Array,
    local_views: Array,
    masks: Array,
    gains: Array | None,
) -> tuple[Array, Array]:
    """Runs the student's backbone on masked global and on local views.

    Args:
      backbone: the backbone module.
      params: the student's parameters.
      global_views: [B, G, H, W, C] normalised.
      local_views: [B, L, H', W', C] normalised; L may be 0.
      masks: [B, G, h, w] bool.
      gains: [B, V, depth, 2] of stochastic depth; None without.

    Returns:
      Class tokens of all views [B, V, D], and all tokens of the global ones [B * G, 1 + N, D].
    """
    num_global = global_views.shape[1]
    global_gains = local_gains = None
    if gains is not None:
        global_gains, local_gains = gains[:, :num_global], gains[:, num_global:]

    def apply_backbone(views, masks, gains):
        flat = map(_flat, (views, masks, gains))
        return backbone.apply({"params": params["backbone"]}, *flat)

    def class_tokens_of(tokens):
        return tokens.cls.reshape(len(global_views), -1, tokens.cls.shape[-1])

    tokens = apply_backbone(global_views, masks, global_gains)
    class_tokens = class_tokens_of(tokens)
    if local_views.shape[1]:
        local = class_tokens_of(apply_backbone(local_views, None, local_gains))
        class_tokens = jnp.concatenate([class_tokens, local], axis=1)
    return class_tokens, tokens.sequence()
