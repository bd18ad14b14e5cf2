"""What teacher and student say of a batch: their logits for the tokens that the losses read.

Shape letters: B batch, G global views, L local views, V = G + L, H and W pixels, h and w patches,
N = h * w, M slots for a view's masked tokens, D width, K prototypes.
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


def gather_masked(masks: Array, slots: int) -> tuple[Array, Array]:
    """Finds each view's masked tokens.

    Args:
      masks: [B, G, N] bool.
      slots: M.

    Returns:
      Token indices [B, G, M] int32, masked ones first in order, and [B, G, M] bool, True where
      the slot holds a masked token.
    """
    indices = jnp.argsort(~masks, axis=-1, stable=True)[..., :slots]
    return indices, jnp.take_along_axis(masks, indices, axis=-1)


def _flat_views(function: Callable[[Array], Array], views: Array) -> Array:
    """Applies a function of [B * V, ...] to [B, V, ...]."""
    outputs = function(views.reshape(-1, *views.shape[2:]))
    return outputs.reshape(*views.shape[:2], *outputs.shape[1:])


def _take_tokens(tokens: Array, indices: Array) -> Array:
    """Gathers tokens [B, G, N, D] at indices [B, G, M] into [B, G, M, D]."""
    return jnp.take_along_axis(tokens, indices[..., None], axis=2)


def teacher_forward(
    backbone: ViT,
    head: Head,
    params: Params,
    views: Array,
    indices: Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Runs the teacher on whole global views.

    The patch center needs the mean output over all tokens. The last layer is linear, so that is
    its output at their mean: only tokens that a loss reads meet the prototypes.

    Args:
      backbone: the backbone module.
      head: the teacher's head module.
      params: the teacher's parameters.
      views: [B, G, H, W, C] normalised.
      indices: [B, G, M] the masked patches.

    Returns:
      Logits {"class": [B, G, K], "patch": [B, G, M, K]} and their means over all tokens
      {"class": [K], "patch": [K]}.
    """

    def apply_head(x, method, module=head):
        return module.apply({"params": params["head"]}, x, method=method)

    tokens = _flat_views(
        lambda x: backbone.apply({"params": params["backbone"]}, x), views
    )  # [B, G, 1 + N, D]
    unit = apply_head(tokens, "bottleneck")
    logits = {
        "class": apply_head(unit[:, :, 0], "class_logits"),
        "patch": apply_head(_take_tokens(unit[:, :, 1:], indices), "patch_logits"),
    }
    exact = head.clone(dtype=head.param_dtype)
    means = {
        "class": logits["class"].mean(axis=(0, 1)),
        "patch": apply_head(unit[:, :, 1:].mean(axis=(0, 1, 2)), "patch_logits", exact),
    }
    return logits, means


def student_forward(
    backbone: ViT,
    head: Head,
    params: Params,
    global_views: Array,
    local_views: Array,
    masks: Array,
    indices: Array,
    rng: Array,
) -> dict[str, Array]:
    """Runs the student on masked global and on local views.

    Args:
      backbone: the backbone module.
      head: the student's head module.
      params: the student's parameters.
      global_views: [B, G, H, W, C] normalised.
      local_views: [B, L, H', W', C] normalised; L may be 0.
      masks: [B, G, h, w] bool.
      indices: [B, G, M] the masked patches.
      rng: key of the stochastic depth.

    Returns:
      Logits {"class": [B, V, K], "patch": [B, G, M, K]}.
    """
    global_rng, local_rng = jax.random.split(rng)

    def apply_backbone(x, masks, rng):
        variables = {"params": params["backbone"]}
        return backbone.apply(variables, x, masks, train=True, rngs={"drop_path": rng})

    flat_masks = masks.reshape(-1, *masks.shape[2:])
    tokens = _flat_views(lambda x: apply_backbone(x, flat_masks, global_rng), global_views)
    class_tokens = [tokens[:, :, 0]]
    if local_views.shape[1]:
        local = _flat_views(lambda x: apply_backbone(x, None, local_rng)[:, 0], local_views)
        class_tokens.append(local)
    patch_tokens = _take_tokens(tokens[:, :, 1:], indices)  # [B, G, M, D]

    # One pass of the head's MLP over every token that a loss reads.
    batch, width = tokens.shape[0], tokens.shape[-1]
    read = jnp.concatenate([*class_tokens, patch_tokens.reshape(batch, -1, width)], axis=1)
    variables = {"params": params["head"]}
    unit = head.apply(variables, read, method="bottleneck")
    num_views = global_views.shape[1] + local_views.shape[1]
    patch_unit = unit[:, num_views:].reshape(*patch_tokens.shape[:3], -1)
    return {
        "class": head.apply(variables, unit[:, :num_views], method="class_logits"),
        "patch": head.apply(variables, patch_unit, method="patch_logits"),
    }
