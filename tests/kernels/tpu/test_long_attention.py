"""Attention of long sequences, interpreted, against softmax attention written down in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels.choice import Kernels
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionSpec
from ibot_jax.kernels.tpu import long_attention
from ibot_jax.models.vit import ViT

TPU = Device("tpu", "TPU v5 lite", partitioned=False)


def by_definition(query, key, value, biases, head_dim, owners):
    """Attention head by head, of [B, T, D] arrays."""
    arrays = (x + biases.get(name, 0) for name, x in zip(QKV, (query, key, value), strict=True))
    by_head = (x.reshape(*x.shape[:2], -1, head_dim).swapaxes(1, 2) for x in arrays)
    q, k, v = by_head
    powers = jnp.exp(q @ k.swapaxes(2, 3) / head_dim**0.5)
    if owners:
        powers = powers * np.equal.outer(owners, owners)
    return (powers @ v / powers.sum(axis=-1, keepdims=True)).swapaxes(1, 2).reshape(query.shape)


CASES = {  # tokens, width, columns of a head, owners, biases
    "two groups of two heads, an end that is cut": (300, 256, 64, (), ()),
    "whole steps": (256, 128, 32, (), ()),
    "one step": (60, 128, 128, (), ("value",)),
    "zeros fill up": (264, 128, 64, (0,) * 257 + (-1,) * 7, QKV),
    "three owners": (200, 128, 64, (0,) * 90 + (1,) * 70 + (2,) * 40, ("query", "value")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_the_definition(case, monkeypatch):
    tokens, width, head_dim, owners, named = case
    monkeypatch.setattr(long_attention, "_QUERIES", 128)
    keys = jax.random.split(jax.random.key(0), 5)
    arrays = [1.5 * jax.random.normal(key, (2, tokens, width)) for key in keys[:3]]
    direction = jax.random.normal(keys[3], (2, tokens, width))
    biases = dict(zip(QKV, jax.random.normal(keys[4], (3, width)), strict=True))
    biases = {name: biases[name] for name in named}
    heads, scale = width // head_dim, head_dim**-0.5
    spec = AttentionSpec(2, tokens, width, heads, "float32", scale, named, owners)

    def ours(*arrays):
        return long_attention.attention(*arrays, spec, TPU)

    def run(attend):
        def along(arrays, biases):
            out = attend(*arrays, biases)
            return (out * direction).sum(), out

        return jax.jit(jax.grad(along, (0, 1), has_aux=True))(arrays, biases)

    expected = run(lambda *x: by_definition(*x, head_dim, owners))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-4), run(ours), expected)


@pytest.mark.parametrize(
    ("tokens", "width", "head_dim", "tensor", "can"),
    [
        (1025, 384, 64, 1, True),  # ViT-S/16 at 512 pixels
        (2305, 1024, 64, 1, True),  # ViT-L/16 at 768
        (1370, 1536, 64, 1, True),  # ViT-g/14 at 518
        (1029, 4096, 128, 4, True),  # ViT-7B/16 over four chips
        (200, 384, 64, 1, False),  # a whole sequence fits
        (4609, 384, 64, 1, False),
        (1025, 192, 64, 1, False),
        (1025, 384, 64, 2, False),  # 192 columns a chip
        (1025, 384, 48, 1, False),
    ],
)
def test_what_it_takes(tokens, width, head_dim, tensor, can):
    spec = AttentionSpec(8, tokens, width, width // head_dim, "bfloat16", head_dim**-0.5)
    device = Device("tpu", "TPU v5", partitioned=False, tensor=tensor)
    assert long_attention.supports(spec, device) == can


def test_a_model_computes_the_same_with_it_on_views_of_another_size(monkeypatch):
    monkeypatch.setitem(long_attention._KNOWN, "dtype", ("float32",))  # which shows more
    monkeypatch.setattr(long_attention, "_QUERIES", 128)
    images = jax.random.normal(jax.random.key(1), (2, 68, 68, 3))  # 17 x 17 patches and a class
    sizes = dict(patch_size=4, width=128, depth=2, heads=2, mlp_ratio=1.0, layer_scale=0.0)
    plain = ViT(**sizes, grid=(4, 4))
    uses = []
    ours = plain.clone(kernels=Kernels(("tpu.long_attention", "packing"), TPU, uses))
    variables = plain.init(jax.random.key(0), images[:, :16, :16])
    variables = jax.tree.map(lambda x: x * 3, variables)  # attention that is far from uniform

    def run(model):
        def square(variables):
            return (model.apply(variables, images).sequence ** 2).mean()

        return jax.jit(jax.value_and_grad(square))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-3, 1e-6), run(ours), run(plain))
    assert {name for name, _ in uses} == {"tpu.long_attention", "packing"}
