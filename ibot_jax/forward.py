"""What teacher and student say of a batch, up to the last layer.

Shape letters: B batch, G global views, L local views, V = G + L, H and W pixels, h and w patches,
N = h * w, D width, K prototypes, U bottleneck.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ibot_jax.models.head import Head
from ibot_jax.models.vit import ViT

Array = jax.Array
Params = dict  # {"backbone": ..., "head": ...}, nested dicts with arrays as leaves


def normalize(views: Array, mean: tuple, std: tuple, dtype: jnp.dtype) -> Array:
    """Normalises uint8 pixels [..., C] to `dtype`; floating views are taken as normalised."""
    if views.dtype == jnp.uint8:
        # In float32: bfloat16 would round the mean and standard deviation first.
        views = (views.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
    return views.astype(dtype)


def _flat_views(function: Callable[..., Array], *arrays: Array | None) -> Array:
    """Applies a function of arrays [B * V, ...] to arrays [B, V, ...]; None stays None."""
    shape = arrays[0].shape[:2]
    flat = [x if x is None else x.reshape(-1, *x.shape[2:]) for x in arrays]
    outputs = function(*flat)
    return outputs.reshape(*shape, *outputs.shape[1:])


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
      Unit bottleneck vectors {"class": [B, G, U], "patch": [B, G, N, U]}, and the mean outputs
      over all of them {"class": [K], "patch": [K]}.
    """
    tokens = _flat_views(
        lambda x: backbone.apply({"params": params["backbone"]}, x), views
    )  # [B, G, 1 + N, D]
    variables = {"params": params["head"]}
    units = head.apply(variables, tokens, method="bottleneck")
    units = {"class": units[:, :, 0], "patch": units[:, :, 1:]}
    exact = head.clone(dtype=head.param_dtype)
    means = {
        kind: exact.apply(variables, unit.mean(axis=range(unit.ndim - 1)), method=f"{kind}_logits")
        for kind, unit in units.items()
    }
    return units, means


def student_forward(
    backbone: ViT,
    params: Params,
    global_views: Array,
    local_views: Array,
    masks: Array,
    gains: Array | None,
) -> dict[str, Array]:
    """Runs the student's backbone on masked global and on local views.

    Args:
      backbone: the backbone module.
      params: the student's parameters.
      global_views: [B, G, H, W, C] normalised.
      local_views: [B, L, H', W', C] normalised; L may be 0.
      masks: [B, G, h, w] bool.
      gains: [B, V, depth, 2] of stochastic depth; None without.

    Returns:
      Tokens {"class": [B, V, D], "patch": [B, G, N, D]}.
    """
    num_global = global_views.shape[1]
    global_gains = local_gains = None
    if gains is not None:
        global_gains, local_gains = gains[:, :num_global], gains[:, num_global:]

    def apply_backbone(x, masks, gains):
        return backbone.apply({"params": params["backbone"]}, x, masks, gains)

    tokens = _flat_views(apply_backbone, global_views, masks, global_gains)  # [B, G, 1 + N, D]
    class_tokens = tokens[:, :, 0]
    if local_views.shape[1]:
        local = _flat_views(
            lambda x, gains: apply_backbone(x, None, gains)[:, 0], local_views, local_gains
        )
        class_tokens = jnp.concatenate([class_tokens, local], axis=1)
    return {"class": class_tokens, "patch": tokens[:, :, 1:]}
