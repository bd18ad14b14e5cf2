"""Names of parameters: the layer that each belongs to; other sizes of images."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.config import get_config
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.build import build_backbone
from ibot_jax.models.geometry import Geometry
from ibot_jax.models.parameters import for_size, layer_of

TINY = Geometry(4, 32, widths=(96, 192, 384, 768), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))


def test_layers_of_a_vit_s():
    model = get_config().model
    backbone = build_backbone(model, (224, 224), "float32")
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    paths = list(flax.traverse_util.flatten_dict(shapes["params"]))
    layers = {path: layer_of(path, geometry_of(model)) for path in paths}
    found = {layer: {path[0] for path in layers if layers[path] == layer} for layer in range(14)}
    assert found == {
        0: {"patch_embed", "cls_token", "pos_embed", "mask_token"},
        **{n: {f"blocks_{n - 1}"} for n in range(1, 13)},
        13: {"norm"},
    }
    assert sum(layer == 4 for layer in layers.values()) == 12  # 2 norms and 4 linear layers


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("patch_embed/proj/kernel", 0),
        ("patch_norm/scale", 0),
        ("mask_token", 0),
        ("stages_0/blocks_0/norm1/scale", 1),
        ("stages_0/merge/reduction/kernel", 2),
        ("stages_1/blocks_1/attn/relative_bias", 4),
        ("stages_2/blocks_5/mlp/fc1/kernel", 10),
        ("stages_2/merge/norm/bias", 10),
        ("stages_3/blocks_1/mlp/fc2/bias", 12),
        ("norm/scale", 13),
    ],
)
def test_layers_count_over_stages(path, layer):
    assert layer_of(tuple(path.split("/")), TINY) == layer


def test_positions_are_resampled_to_another_size_and_all_else_stays():
    positions = np.random.default_rng(0).normal(size=(1, 1 + 4 * 6, 8)).astype(np.float32)
    params = {"pos_embed": positions, "cls_token": positions[:, :1]}
    model = get_config().model
    same = for_size(params, model, (64, 96), (64, 96))
    assert same["pos_embed"] is positions
    other = for_size(params, model, (64, 96), (32, 32))
    assert other["pos_embed"].shape == (1, 1 + 2 * 2, 8)
    np.testing.assert_array_equal(other["pos_embed"][:, 0], positions[:, 0])
    assert other["cls_token"] is params["cls_token"]
    assert for_size({"norm": 1}, model, (224, 224), (384, 384)) == {"norm": 1}
