"""AdamW whose learning rate falls from the classifier down to the patches (BEiT's layer decay)."""

import jax
import optax

from ibot_jax.optim.optimizer import Params, add_weight_decay, scale_by_negative
from ibot_jax.optim.schedules import Schedule

# Not decayed though they have more than one dimension; the mask token is not used.
_UNDECAYED = ("cls_token", "pos_embed", "mask_token")


def layer_of(path: tuple[str, ...], depth: int) -> int:
    """Returns the number of the layer that a parameter belongs to.

    Args:
      path: its names, ("backbone", "blocks_3", "attn", ...).
      depth: of the backbone, blocks.

    Returns:
      0 for the embedding (patches, positions, tokens), n for the n-th block from 1 on, depth + 1
      for what comes after the last block.
    """
    if path[0] != "backbone" or path[1] == "norm":
        return depth + 1
    name, _, number = path[1].partition("_")
    return int(number) + 1 if name == "blocks" else 0


def make_optimizer(
    *, lr: Schedule, weight_decay: float, layer_decay: float, depth: int
) -> optax.GradientTransformationExtraArgs:
    """Builds the Optax chain; its `update` needs `params` and the keyword `step`.

    Args:
      lr: learning rate of the classifier, by step; layer n has layer_decay ** (depth + 1 - n)
        times that.
      weight_decay: of tensors with two dimensions and more, but for positions and tokens.
      layer_decay: in (0, 1]; 1 gives all layers the same rate.
      depth: of the backbone, blocks.
    """

    def scale(updates, params):
        del params

        def one(path, update):
            return update * layer_decay ** (depth + 1 - layer_of(_names(path), depth))

        return jax.tree_util.tree_map_with_path(one, updates)

    def decayed(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: _names(path)[-1] not in _UNDECAYED, params
        )

    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.masked(add_weight_decay(lambda step: weight_decay), decayed),
        optax.stateless(scale),
        scale_by_negative(lr),
    )


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)
