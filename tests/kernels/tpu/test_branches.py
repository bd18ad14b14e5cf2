"""The TPU's kernels of a block's branches, interpreted, against their definitions in JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.choice import choose
from ibot_jax.kernels.devices import Device
from ibot_jax.kernels.specs import QKV, AttentionBranchSpec, AttentionSpec, MlpBranchSpec
from ibot_jax.kernels.tpu import attention as tpu_attention
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.kernels.tpu.cores import cores_of
from ibot_jax.models.vit import ViT

V4, V5P, V5E = (
    Device("tpu", kind, partitioned=False) for kind in ("TPU v4", "TPU v5", "TPU v5 lite")
)  # of two cores, of two, of one
HEAD_DIM = 64


def attention_spec(shape, owners=(), dtype="bfloat16"):
    heads = shape[-1] // HEAD_DIM
    attention = AttentionSpec(*shape, heads, dtype, HEAD_DIM**-0.5, QKV, owners)
    return AttentionBranchSpec(attention, norm="layer", epsilon=1e-6)


def mlp_spec(rows, width, hidden, dtype="bfloat16"):
    return MlpBranchSpec(rows, width, hidden, dtype, "gelu", norm="layer", epsilon=1e-6)


def mlp_by_kernel(x, params, gains, device):
    return tpu_mlp.branch(x, params, gains, mlp_spec(*x.shape, params["fc1"]["bias"].size), device)


def attention_by_kernel(x, params, gains, owners, device):
    rows = x.reshape(-1, x.shape[-1])
    spec = attention_spec(x.shape, owners)
    return tpu_attention_branch.branch(rows, params, gains, spec, device).reshape(x.shape)


def norm(x, params):
    centred = x - x.mean(axis=-1, keepdims=True)
    unit = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return unit * params["scale"] + params["bias"]


def linear(x, params):
    return x @ params["kernel"] + params["bias"]


def add_mlp(x, params, gains):
    hidden = linear(norm(x, params["norm"]), params["fc1"])
    activation = hidden * (1 + jax.scipy.special.erf(hidden / 2**0.5)) / 2
    branch = linear(activation, params["fc2"])
    return x + (branch if gains is None else gains * branch)


def add_attention(x, params, gains, owners):
    projected = linear(norm(x, params["norm"]), params["qkv"])
    heads = projected.reshape(*x.shape[:2], 3, -1, HEAD_DIM)
    query, key, value = (heads[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / HEAD_DIM**0.5
    if owners:
        scores = jnp.where(np.equal.outer(owners, owners), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value).reshape(x.shape)
    branch = linear(mixed, params["proj"])
    return x + (branch if gains is None else gains * branch)


def random_params(**layers):
    """Returns a norm and linear layers, by name (inputs, outputs)."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)

    params = {name: {"kernel": random(*s), "bias": random(s[1])} for name, s in layers.items()}
    width = next(iter(layers.values()))[0]
    return params | {"norm": {"scale": 1 + random(width), "bias": random(width)}}


def mlp_params(width, hidden):
    return random_params(fc1=(width, hidden), fc2=(hidden, width))


def attention_params(width):
    return random_params(qkv=(width, 3 * width), proj=(width, width))


def check_outputs_and_gradients(ours, definition, shape, params, with_gains):
    x, direction = (1.5 * jax.random.normal(jax.random.key(i), shape) for i in (1, 2))
    gains = None
    if with_gains:
        gains = jax.random.bernoulli(jax.random.key(3), 0.8, (*shape[:-1], 1)) / 0.8

    def run(add):
        def along(x, params):
            out = add(x, params, gains)
            return (out * direction).sum(), out

        return jax.jit(jax.grad(along, (0, 1), has_aux=True))(x, params)

    for found, wanted in zip(*map(jax.tree.leaves, map(run, (ours, definition))), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-4 * abs(wanted).max())


@pytest.mark.parametrize(
    ("rows", "width", "hidden"),
    [(5, 128, 256), (1200, 128, 256), (1234, 128, 512), (100, 256, 256)],
    ids=["few", "several steps", "a rest", "a wide one"],
)
@pytest.mark.parametrize(("with_gains", "device"), [(False, V5E), (True, V5P)])
def test_mlp_computes_its_definition(rows, width, hidden, with_gains, device):
    ours = functools.partial(mlp_by_kernel, device=device)
    params = mlp_params(width, hidden)
    check_outputs_and_gradients(ours, add_mlp, (rows, width), params, with_gains)


@pytest.mark.parametrize(
    ("batch", "tokens", "width", "owners"),
    [(1, 16, 128, ()), (5, 24, 256, ()), (9, 112, 128, packing.owners(37))],
    ids=["one", "two groups of heads", "packed views, a rest"],
)
@pytest.mark.parametrize(("with_gains", "device"), [(False, V5E), (True, V5P)])
def test_attention_computes_its_definition(
    batch, tokens, width, owners, with_gains, device, monkeypatch
):
    monkeypatch.setattr(tpu_attention_branch, "_AT_ONCE", 30_000)  # of 9 sequences, several steps
    check_outputs_and_gradients(
        functools.partial(attention_by_kernel, owners=owners, device=device),
        functools.partial(add_attention, owners=owners),
        (batch, tokens, width),
        attention_params(width),
        with_gains,
    )


def in_bfloat16(params):
    return jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), params)


def test_in_bfloat16_they_are_as_exact_as_that():
    x = jax.random.normal(jax.random.key(1), (4, 16, 128)).astype(jnp.bfloat16)
    wide = x.astype(jnp.float32)
    params = mlp_params(128, 256)
    out = mlp_by_kernel(x[0], params, None, V5E)
    assert out.dtype == jnp.bfloat16
    expected = add_mlp(wide[0], in_bfloat16(params), None)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, 2**-7, 2**-5)

    params = attention_params(128)
    out = attention_by_kernel(x, params, None, (), V5E)
    assert out.dtype == jnp.bfloat16
    expected = add_attention(wide, in_bfloat16(params), None, ())
    np.testing.assert_allclose(out.astype(jnp.float32), expected, 2**-7, 2**-5)


def test_gradients_have_the_dtypes_of_the_parameters():
    """One loop over the blocks casts kernels beforehand (`model.scan_blocks`)."""
    params = mlp_params(128, 256)
    params["fc1"]["kernel"] = params["fc1"]["kernel"].astype(jnp.bfloat16)
    x = jnp.ones((16, 128), jnp.bfloat16)
    gradients = jax.grad(lambda p: mlp_by_kernel(x, p, None, V5E).astype(float).sum())(params)
    assert jax.tree.map(jnp.dtype, gradients) == jax.tree.map(jnp.dtype, params)


@pytest.mark.parametrize(
    ("width", "hidden", "device", "can"),
    [
        (384, 1536, V4, True),  # ViT-S/16
        (768, 3072, V4, False),  # ViT-B/16
        (768, 3072, V5P, True),
        (1024, 4096, V5P, True),  # ViT-L/16
        (1280, 5120, V5P, False),
        (1280, 5120, V5E, True),
        (192, 768, V5E, False),
        (384, 640, V5E, False),
    ],
)
def test_mlps_that_the_kernels_do_not_take_are_left_to_xla(width, hidden, device, can):
    assert tpu_mlp.supports(mlp_spec(64, width, hidden), device) == can


@pytest.mark.parametrize(
    ("tokens", "width", "device", "can"),
    [
        (200, 384, V4, True),
        (200, 768, V4, False),
        (200, 1024, V5P, True),
        (472, 384, V4, True),
        (512, 384, V4, False),
        (600, 384, V5E, False),
        (200, 192, V5E, False),
    ],
)
def test_attention_that_the_kernels_do_not_take_is_left_to_xla(tokens, width, device, can):
    assert tpu_attention_branch.supports(attention_spec((8, tokens, width)), device) == can


def test_a_chip_that_is_not_known_is_taken_for_a_small_one():
    assert cores_of("TPU v9") == cores_of("TPU v4")


def small_vit(**options):
    sizes = dict(patch_size=4, width=128, depth=1, heads=2, mlp_ratio=2.0, grid=(4, 4))
    return ViT(**sizes | {"layer_scale": 0.0} | options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"scan_blocks": True, "remat": "blocks"}], ids=str)
def test_a_model_computes_the_same_with_them(options, monkeypatch):
    for module in (tpu_attention, tpu_mlp):  # which shows more
        monkeypatch.setitem(module._KNOWN, "dtype", ("float32",))
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    gains = jax.random.bernoulli(jax.random.key(2), 0.7, (4, 1, 2)) / 0.7
    plain = small_vit()
    uses = []
    kernels = choose("auto", V5E, uses)
    ours = small_vit(kernels=kernels, **options)
    variables = jax.tree.map(lambda x: x * 3, plain.init(jax.random.key(0), images))

    def run(model):
        def square(variables):
            return (model.apply(variables, images, None, gains).sequence ** 2).mean()

        return jax.jit(jax.value_and_grad(square))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-3, 1e-5), run(ours), run(plain))
    assert {name for name, _ in uses} == {"packing", "tpu.attention_branch", "tpu.mlp"}


def test_layer_scale_is_in_the_last_layers_weights(monkeypatch):
    """Outputs and gradients of a block with it are XLA's, that of LayerScale itself included."""
    for module in (tpu_attention, tpu_mlp):  # which shows more
        monkeypatch.setitem(module._KNOWN, "dtype", ("float32",))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    uses = []
    plain = small_vit(layer_scale=0.5)
    ours = small_vit(layer_scale=0.5, kernels=choose("auto", V5E, uses))
    variables = jax.tree.map(lambda x: x * 3, plain.init(jax.random.key(0), images))

    def run(model):
        def square(variables):
            return (model.apply(variables, images).sequence ** 2).mean()

        return jax.jit(jax.value_and_grad(square))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-3, 1e-5), run(ours), run(plain))
    assert {"tpu.attention_branch", "tpu.mlp"} <= {name for name, _ in uses}
    assert not any(getattr(spec, "layer_scale", False) for _, spec in uses)
