"""AdamW whose learning rate falls from the classifier down to the patches (BEiT's layer decay)."""

import jax
import optax

from ibot_jax.models.geometry import Geometry
from ibot_jax.models.parameters import Params, layer_of
from ibot_jax.optim.optimizer import add_weight_decay, scale_by_negative
from ibot_jax.optim.schedules import Schedule

# Not decayed though they have more than one dimension; the mask token is not used.
_UNDECAYED = ("cls_token", "pos_embed", "mask_token")


def make_optimizer(
    *, lr: Schedule, weight_decay: float, layer_decay: float, geometry: Geometry
) -> optax.GradientTransformationExtraArgs:
    """Builds the Optax chain; its `update` needs `params` and the keyword `step`.

    Args:
      lr: learning rate of the classifier, by step; layer n of the backbone (see `layer_of`) has
        layer_decay ** (depth + 1 - n) times that.
      weight_decay: of tensors with two dimensions and more, but for positions and tokens.
      layer_decay: in (0, 1]; 1 gives all layers the same rate.
      geometry: of the backbone.
    """
    last = geometry.depth + 1

    def layer(part: str, *path: str) -> int:
        return layer_of(path, geometry) if part == "backbone" else last

    def scale(updates, params):
        del params

        def one(path, update):
            return update * layer_decay ** (last - layer(*_names(path)))

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
