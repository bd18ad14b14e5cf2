"""A batch as networks see it, and tokens of its views.

Shape letters: B images, G global views, L local views, V = G + L, H and W pixels, h and w patches,
D width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ibot_jax.models.parameters import Params
from ibot_jax.models.pixels import normalize
from ibot_jax.models.tokens import Tokens

Array = jax.Array
Batch = dict[str, Array]


@flax.struct.dataclass
class Views:
    """The views of some images.

    Attributes:
      global_views: [B, G, H, W, C] normalised.
      local_views: [B, L, H', W', C] normalised; L may be 0.
      masks: [B, G, h, w] bool, True where the student does not see the patch; None for whole views.
      gains: [B, V, depth, 2] of the student's stochastic depth; None without.
      rope_noise: [depth, 2, 2] of the student's rotary positions by kind, "global" and "local";
        None without.
      gram_views: [B, G, H'', W'', C], the global views as the gram teacher sees them; None without.
    """

    global_views: Array
    local_views: Array
    masks: Array | None
    gains: Array | None
    rope_noise: Mapping[str, Array] | None = None
    gram_views: Array | None = None


@flax.struct.dataclass
class Noise:
    """What a step draws for the student, as `Views` has it."""

    gains: Array | None = None
    rope: Mapping[str, Array] | None = None


def make_views(
    batch: Batch,
    rope_noise: Mapping[str, Array] | None = None,
    *,
    mean: tuple,
    std: tuple,
    dtype: jnp.dtype,
    apply_colors: Callable[[Array, Array], Array],
    gram_colors: bool = False,
) -> Views:
    """Returns the views of a batch, or of some of its rows, their colours changed and normalised.

    Args:
      batch: `global_views`, `local_views` (uint8, or normalised floats) and `masks` as in `Views`;
        `gains` where there is stochastic depth; `gram_views` where there is a gram teacher; and,
        where colours are still to be changed, `global_colors` [B, G, 12] and `local_colors`
        [B, L, 12], see `color_table.COLUMNS`.
      rope_noise: as in `Views`.
      mean: of each channel.
      std: of each channel.
      dtype: of the networks' computation.
      apply_colors: changes the colours of uint8 views.
      gram_colors: whether those of the global views are changed in `gram_views`, too.
    """

    def views(kind: str, colored: str) -> Array:
        pixels, colors = batch[f"{kind}_views"], batch.get(f"{colored}_colors")
        if colors is not None:
            pixels = apply_colors(pixels, colors)
        return normalize(pixels, mean, std, dtype)

    gram_views = None
    if "gram_views" in batch:
        gram_views = views("gram", "global" if gram_colors else "no")
    return Views(
        views("global", "global"),
        views("local", "local"),
        batch["masks"],
        batch.get("gains"),
        rope_noise,
        gram_views,
    )


def tokens_of(backbone: nn.Module, params: Params, views: Array) -> Tokens:
    """Runs a backbone on whole views of one size.

    Args:
      backbone: the module.
      params: {"backbone": ..., ...}.
      views: [B, V, H, W, C] normalised.

    Returns:
      Tokens that lead with [B * V]; `by_view` takes parts of them apart.
    """
    return backbone.apply({"params": params["backbone"]}, views.reshape(-1, *views.shape[2:]))


def by_view(x: Array, views: Array) -> Array:
    """Returns what leads with [B * V] so that it leads with [B, V], as `views` do."""
    return x.reshape(*views.shape[:2], *x.shape[1:])


def student_tokens(backbone: nn.Module, params: Params, views: Views) -> tuple[Tokens, Array]:
    """Runs the student on masked global views and on local ones.

    Returns:
      Tokens of the global views, which lead with [B * G], and the class tokens of all views,
      [B, V, D], the global ones first.
    """
    num_global = views.global_views.shape[1]
    gains = global_gains = views.gains
    if gains is not None:
        global_gains, gains = gains[:, :num_global], gains[:, num_global:]

    def training(kind: str) -> dict[str, Any]:
        noise = {} if views.rope_noise is None else {"rope_noise": views.rope_noise[kind]}
        return noise | {"local": kind == "local"}

    several = [_flat(views.global_views, views.masks, global_gains) | training("global")]
    if views.local_views.shape[1]:
        several.append(_flat(views.local_views, None, gains) | training("local"))
    params = {"params": params["backbone"]}
    tokens, *local = backbone.apply(params, several, method="together")
    class_tokens = by_view(tokens.cls, views.global_views)
    if local:
        of_local = by_view(local[0].cls, views.local_views)
        class_tokens = jnp.concatenate([class_tokens, of_local], axis=1)
    return tokens, class_tokens


def _flat(views: Array, masks: Array | None, gains: Array | None) -> dict[str, Array | None]:
    """Returns what a backbone takes of views [B, V, ...] of one size, leading with [B * V]."""
    inputs = {"images": views, "masks": masks, "gains": gains}
    return {name: None if x is None else x.reshape(-1, *x.shape[2:]) for name, x in inputs.items()}
