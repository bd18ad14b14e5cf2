"""A backbone that sees its sequences packed computes what it computes without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.choice import Kernels
from ibot_jax.kernels.devices import Device
from ibot_jax.models.vit import ViT

TPU = Device("tpu", partitioned=False)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("tokens", "shape"),
    [(37, (8, 112, 2)), (64, (8, 128, 2)), (16, (8, 128, 2)), (197, (7, 200, 2))],
)
def test_sequences_fill_whole_tiles(tokens, shape):
    x = random(0, 7, tokens, 2)
    packed = packing.pack(x)
    assert packed.shape == shape
    np.testing.assert_array_equal(packing.unpack(packed, 7, tokens), x)


def test_owners_tell_the_sequences_of_a_packed_one_apart():
    x = jnp.broadcast_to(jnp.arange(1.0, 4)[:, None, None], (3, 37, 1))
    np.testing.assert_array_equal(packing.pack(x)[0, :, 0], np.array(packing.owners(37)) + 1)


def test_what_fills_up_a_long_sequence_belongs_to_none_of_it():
    assert set(packing.owners(197)[:197]) == {0} and 0 not in packing.owners(197)[197:]


@pytest.mark.parametrize("side", [12, 24])
@pytest.mark.parametrize("options", [{}, {"scan_blocks": True}, {"remat": "blocks"}], ids=str)
def test_outputs_and_gradients_are_those_without(side, options):
    model = ViT(
        patch_size=4, width=12, depth=2, heads=2, mlp_ratio=2.0, layer_scale=0.5, grid=(12, 12)
    )
    images, cotangent = random(1, 15, side, side, 3), random(2, 15, 1 + (side // 4) ** 2, 12)
    params = jax.tree.map(
        lambda p: random(p.size, *p.shape), model.init(jax.random.key(0), images)["params"]
    )
    gains = jnp.abs(random(3, 15, 2, 2))
    masks = random(4, 15, side // 4, side // 4) > 0.5

    @jax.jit
    def run(params, gains):
        return [
            jax.value_and_grad(
                lambda params, gains, model=model: jnp.vdot(
                    model.apply({"params": params}, images, masks, gains).sequence, cotangent
                ),
                argnums=(0, 1),
            )(params, gains)
            for model in (model, model.clone(kernels=Kernels(("packing",), TPU), **options))
        ]

    plain, packed = run(params, gains)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6 * scale), plain, packed)
