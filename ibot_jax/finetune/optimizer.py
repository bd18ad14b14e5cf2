"""AdamW whose learning rate falls from the classifier down to the patches (BEiT's layer decay)."""

import jax
import optax

from ibot_jax.models.geometry import Geometry
from ibot_jax.models.parameters import Params, names_of
from ibot_jax.optim import rates
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

    def decayed(params: Params) -> Params:
        return jax.tree.map(lambda name: name.split("/")[-1] not in _UNDECAYED, names_of(params))

    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.masked(add_weight_decay(lambda step: weight_decay), decayed),
        rates.scale_by(rates.layer_decay(layer_decay, geometry)),
        scale_by_negative(lr),
    )
