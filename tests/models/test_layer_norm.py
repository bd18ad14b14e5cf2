"""Every LayerNorm of a backbone has the epsilon of its config."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from tiny import TINY_SWIN, tiny_config

from ibot_jax.models.build import build_backbone


@pytest.mark.parametrize(
    ("overrides", "norms"), [({}, 2 * 2 + 1), (TINY_SWIN, 2 * 3 + 1 + 1 + 1)], ids=["vit", "swin"]
)
def test_the_epsilon_is_that_of_the_config(overrides, norms):
    """Two norms a block and the last one; in a Swin those of the embedding and of a merging."""
    config = tiny_config(**overrides, model__norm_eps=0.01)
    backbone = build_backbone(config.model, config.data.global_size, "float32")
    images = jnp.zeros((1, *config.data.global_size, 3))
    params = jax.eval_shape(backbone.init, jax.random.key(0), images)
    found = []

    def look(call, args, kwargs, context):
        if isinstance(context.module, nn.LayerNorm):
            found.append(context.module.epsilon)
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        jax.eval_shape(backbone.apply, params, images)
    assert found == [0.01] * norms
