"""The TPU's kernels of a block's branches, interpreted, against their definitions in JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels import packing
from ibot_jax.kernels.tpu import attention_branch as tpu_attention_branch
from ibot_jax.kernels.tpu import mlp as tpu_mlp
from ibot_jax.kernels.tpu.cores import Cores, cores_of
from ibot_jax.models.vit import ViT

ONE, TWO = Cores(1, 64 * 2**20), Cores(2, 64 * 2**20)
V4, V5P, V5E = (cores_of(kind) for kind in ("TPU v4", "TPU v5", "TPU v5 lite"))
HEAD_DIM = 64


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


def add_attention(x, params, gains, head_dim, owners):
    projected = linear(norm(x, params["norm"]), params["qkv"])
    heads = projected.reshape(*x.shape[:2], 3, -1, head_dim)
    query, key, value = (heads[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / head_dim**0.5
    if owners is not None:
        scores = jnp.where(owners[:, None] == owners, scores, -jnp.inf)
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
@pytest.mark.parametrize(("with_gains", "cores"), [(False, ONE), (True, TWO)])
def test_mlp_computes_its_definition(rows, width, hidden, with_gains, cores):
    ours = functools.partial(tpu_mlp.add_mlp, cores=cores)
    params = mlp_params(width, hidden)
    check_outputs_and_gradients(ours, add_mlp, (rows, width), params, with_gains)


@pytest.mark.parametrize(
    ("batch", "tokens", "width", "owners"),
    [(1, 16, 128, None), (5, 24, 256, None), (9, 112, 128, packing.owners(37))],
    ids=["one", "two groups of heads", "packed views, a rest"],
)
@pytest.mark.parametrize(("with_gains", "cores"), [(False, ONE), (True, TWO)])
def test_attention_computes_its_definition(
    batch, tokens, width, owners, with_gains, cores, monkeypatch
):
    monkeypatch.setattr(tpu_attention_branch, "_AT_ONCE", 30_000)  # of 9 sequences, several steps
    if owners is not None:  # what fills up a sequence attends to itself
        owners = np.where(owners < 0, owners.max() + 1, owners)
    how = dict(head_dim=HEAD_DIM, owners=owners)
    check_outputs_and_gradients(
        functools.partial(tpu_attention_branch.add_attention, **how, cores=cores),
        functools.partial(add_attention, **how),
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
    out = tpu_mlp.add_mlp(x[0], params, None, ONE)
    assert out.dtype == jnp.bfloat16
    expected = add_mlp(wide[0], in_bfloat16(params), None)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, 2**-7, 2**-5)

    params = attention_params(128)
    out = tpu_attention_branch.add_attention(x, params, None, HEAD_DIM, None, ONE)
    assert out.dtype == jnp.bfloat16
    expected = add_attention(wide, in_bfloat16(params), None, HEAD_DIM, None)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, 2**-7, 2**-5)


def test_gradients_have_the_dtypes_of_the_parameters():
    """One loop over the blocks casts kernels beforehand (`model.scan_blocks`)."""
    params = mlp_params(128, 256)
    params["fc1"]["kernel"] = params["fc1"]["kernel"].astype(jnp.bfloat16)
    x = jnp.ones((16, 128), jnp.bfloat16)
    gradients = jax.grad(lambda p: tpu_mlp.add_mlp(x, p, None, ONE).astype(float).sum())(params)
    assert jax.tree.map(jnp.dtype, gradients) == jax.tree.map(jnp.dtype, params)


@pytest.mark.parametrize(
    ("width", "hidden", "cores", "can"),
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
def test_mlps_that_the_kernels_do_not_take_are_left_to_xla(width, hidden, cores, can):
    assert tpu_mlp.can_add_mlp(width, hidden, cores) == can


@pytest.mark.parametrize(
    ("tokens", "width", "cores", "can"),
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
def test_attention_that_the_kernels_do_not_take_is_left_to_xla(tokens, width, cores, can):
    assert tpu_attention_branch.can_add_attention(tokens, width, HEAD_DIM, cores) == can


def test_a_chip_that_is_not_known_is_taken_for_a_small_one():
    assert cores_of("TPU v9") == V4


def small_vit(**options):
    sizes = dict(patch_size=4, width=128, depth=1, heads=2, mlp_ratio=2.0, grid=(4, 4))
    return ViT(**sizes | {"layer_scale": 0.0} | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"pack": True, "scan_blocks": True, "remat": "blocks"}], ids=str
)
def test_a_model_computes_the_same_with_them(options):
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    gains = jax.random.bernoulli(jax.random.key(2), 0.7, (4, 1, 2)) / 0.7
    plain = small_vit()
    ours = small_vit(kernels="pallas", cores=V5E, **options)
    variables = jax.tree.map(lambda x: x * 3, plain.init(jax.random.key(0), images))

    def run(model):
        def square(variables):
            return (model.apply(variables, images, None, gains).sequence() ** 2).mean()

        return jax.jit(jax.value_and_grad(square))(variables)

    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-3, 1e-5), run(ours), run(plain))


@pytest.mark.parametrize("layer_scale", [0.0, 0.5])
def test_branches_with_layer_scale_are_left_to_xla(layer_scale):
    images = jnp.zeros((2, 16, 16, 3))
    model = small_vit(layer_scale=layer_scale, kernels="pallas", cores=V5E)
    variables = model.init(jax.random.key(0), images)
    program = str(jax.make_jaxpr(model.apply)(variables, images))
    for kernel in ("kernel_mlp_only", "kernel_attention_branch_only"):
        assert (kernel in program) == (not layer_scale)
