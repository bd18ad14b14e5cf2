"""The TPU's kernels, interpreted, against softmax attention written down in NumPy and in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.choice import Kernels
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionSpec
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.models.vit import ViT

TPU = Device("tpu", "TPU v4", partitioned=False)


def attend(query, key, value, biases, head_dim, owners=()):
    shape = query.shape
    spec = AttentionSpec(
        *shape, shape[-1] // head_dim, query.dtype.name, head_dim**-0.5, QKV, owners
    )
    biases = dict(zip(QKV, biases, strict=True))
    return tpu_attention.attention(query, key, value, biases, spec, TPU)


def by_definition(query, key, value, biases, head_dim, owners=()):
    """Attention head by head, of [B, T, D] arrays."""
    outputs = []
    for start in range(0, query.shape[-1], head_dim):
        own = slice(start, start + head_dim)
        q, k, v = (x[..., own] + b[own] for x, b in zip((query, key, value), biases, strict=True))
        powers = jnp.exp(q @ k.swapaxes(1, 2) / head_dim**0.5)
        if owners:
            powers = powers * np.equal.outer(owners, owners)
        outputs.append(powers @ v / powers.sum(axis=-1, keepdims=True))
    return jnp.concatenate(outputs, axis=-1)


SHAPES = {  # batch, tokens, width, columns of a head, owners
    "a group of two heads and one of one": (1, 10, 192, 64, ()),
    "a head that fills a group": (1, 5, 128, 128, ()),
    "packed views": (1, 112, 64, 64, packing.owners(37)),
    "more sequences than a step takes, not a multiple": (3, 100, 64, 64, ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_and_gradients_are_those_of_the_definition(shape):
    batch, tokens, width, head_dim, owners = shape
    keys = jax.random.split(jax.random.key(0), 7)
    arrays = [1.5 * jax.random.normal(key, (batch, tokens, width)) for key in keys[:3]]
    biases = [jax.random.normal(key, (width,)) for key in keys[3:6]]
    direction = jax.random.normal(keys[6], (batch, tokens, width))

    def run(attend):
        def along(arrays, biases):
            out = attend(*arrays, biases, head_dim, owners)
            return (out * direction).sum(), out

        return jax.jit(jax.grad(along, (0, 1), has_aux=True))(arrays, biases)

    ours, expected = run(attend), run(by_definition)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-4), ours, expected)


def test_a_bias_of_the_keys_changes_nothing():
    """It adds the same to all scores of a query."""
    x = jax.random.normal(jax.random.key(0), (1, 7, 64))
    zero = jnp.zeros(64)
    moved = jax.random.normal(jax.random.key(1), (64,))
    out, shifted = (attend(x, x, x, (zero, bias, zero), 64) for bias in (zero, moved))
    np.testing.assert_allclose(out, shifted, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "width", "head_dim", "can"),
    [
        (200, 1024, 64, True),  # ViT-L/16 at 224 pixels
        (576, 384, 64, False),
        (400, 1024, 64, False),
        (37, 96, 48, False),
        (5, 512, 256, False),
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_xla(tokens, width, head_dim, can):
    scale = head_dim**-0.5
    spec = AttentionSpec(8, tokens, width, width // head_dim, "bfloat16", scale, QKV)
    assert tpu_attention.supports(spec, TPU) == can


@pytest.mark.slow
@pytest.mark.parametrize("pack", [False, True])
def test_a_model_computes_the_same_with_them(pack, monkeypatch):
    monkeypatch.setitem(tpu_attention._KNOWN, "dtype", ("float32",))  # which shows more
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    sizes = dict(patch_size=4, width=64, depth=2, heads=2, mlp_ratio=2.0, layer_scale=0.0)
    plain = ViT(**sizes, grid=(4, 4))
    uses = []
    names = ("tpu.attention", "packing") if pack else ("tpu.attention",)
    ours = plain.clone(kernels=Kernels(names, TPU, uses))
    variables = plain.init(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: x * 3, variables)  # attention that is far from uniform

    def run(model):
        def square(variables):
            return (model.apply(variables, images).sequence ** 2).mean()

        return jax.jit(jax.value_and_grad(square))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-3, 1e-6), run(ours), run(plain))
    assert {name for name, _ in uses} == set(names)
    maps = [model.apply(variables, images, method="attention") for model in (ours, plain)]
    np.testing.assert_allclose(*(attention.weights for attention in maps), atol=1e-6)
