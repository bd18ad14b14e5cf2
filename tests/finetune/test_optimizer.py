"""Layer decay and AdamW against closed forms."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.config import VIT_SIZES
from ibot_jax.finetune.optimizer import make_optimizer
from ibot_jax.models.classifier import Classifier
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.vit import ViT

DECAY, LR, WEIGHT_DECAY = 0.75, 0.01, 0.05
SMALL = Geometry(16, 16, widths=(384,), depths=(12,), heads=(6,))


@pytest.fixture(scope="module")
def params():
    """The shapes of a ViT-S/16 and its classifier on the projection's first layer, by path."""
    float32 = dict(dtype=jnp.float32, param_dtype=jnp.float32)
    backbone = ViT(
        **VIT_SIZES["small"],
        patch_size=16,
        mlp_ratio=4.0,
        layer_scale=0.0,
        grid=(14, 14),
        **float32,
    )
    classifier = Classifier(
        backbone, num_classes=5, projection_dim=2048, act="gelu", init_std=0.02, **float32
    )
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(classifier.init, jax.random.key(0), image)["params"]
    return flax.traverse_util.flatten_dict(shapes)


def test_one_step_from_a_constant_gradient_is_adamw_by_layer(params):
    """Adam's first update is the gradient's sign; decay adds 0.05 times the parameter to it."""
    tensors = {path: jnp.full((1,) * shape.ndim, 2.0) for path, shape in params.items()}
    tree = flax.traverse_util.unflatten_dict(tensors)
    gradients = jax.tree.map(jnp.ones_like, tree)
    optimizer = make_optimizer(
        lr=lambda step: LR * (1 + step),
        weight_decay=WEIGHT_DECAY,
        layer_decay=DECAY,
        geometry=SMALL,
    )
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(tree), tree, step=3.0)
    for path, update in flax.traverse_util.flatten_dict(updates).items():
        if path[0] == "backbone" and path[1].startswith("blocks_"):
            layer = 1 + int(path[1].removeprefix("blocks_"))
        else:
            layer = 13 if path[0] != "backbone" or path[1] == "norm" else 0
        decayed = path[-1] == "kernel"
        expected = -4 * LR * DECAY ** (13 - layer) * (1 + WEIGHT_DECAY * 2 * decayed)
        np.testing.assert_allclose(update, expected, rtol=1e-5, err_msg="/".join(path))


def test_a_factor_of_one_gives_all_layers_the_same_rate(params):
    tree = flax.traverse_util.unflatten_dict({path: jnp.ones(2) for path in params})
    optimizer = make_optimizer(
        lr=lambda step: LR, weight_decay=0.0, layer_decay=1.0, geometry=SMALL
    )
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree, step=0.0)
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(update, -LR, rtol=1e-5)
