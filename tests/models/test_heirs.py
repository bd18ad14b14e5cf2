"""The options that a ViT has from DINOv2 and DINOv3, each by what it promises."""

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.kernels.specs import QKV
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.block import Block, drop_path_gains
from ibot_jax.models.vit import ViT


def tiny(**overrides):
    kwargs = dict(
        patch_size=4, width=12, depth=3, heads=2, mlp_ratio=4.0, layer_scale=0.0, grid=(4, 4)
    )
    return ViT(**{**kwargs, **overrides})


IMAGES = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))


def noisy(model, images=IMAGES):
    """Parameters of which none is at a neutral value."""
    params = model.init(jax.random.key(0), images)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noise = [jax.random.normal(key, x.shape) / 3 for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


def names_of(params):
    return {"/".join(path) for path in flax.traverse_util.flatten_dict(params)}


def test_registers_stand_between_class_token_and_patches_and_have_no_position():
    model = tiny(registers=3, depth=0)
    params = noisy(model)
    tokens = model.apply({"params": params}, IMAGES)
    assert tokens.registers.shape == (2, 3, 12) and tokens.patches.shape == (2, 4, 6, 12)
    embedded = params["register_tokens"][0]
    normed = (embedded - embedded.mean(-1, keepdims=True)) / embedded.std(-1, keepdims=True)
    expected = normed * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(tokens.registers[1], expected, atol=1e-4)
    without = tiny(depth=0).apply({"params": params}, IMAGES)
    np.testing.assert_array_equal(without.cls, tokens.cls)
    np.testing.assert_array_equal(without.patches, tokens.patches)


def test_registers_take_part():
    model = tiny(registers=3)
    params = noisy(model)
    before = model.apply({"params": params}, IMAGES)
    params["register_tokens"] = params["register_tokens"][..., ::-1]
    after = model.apply({"params": params}, IMAGES)
    assert np.abs(after.cls - before.cls).max() > 1e-3
    attention = model.apply({"params": params}, IMAGES, method="attention")
    assert attention.cls.shape == (2, 2, 4, 6) and attention.weights.shape == (2, 2, 28, 28)
    np.testing.assert_array_equal(attention.cls.reshape(2, 2, -1), attention.weights[:, :, 0, 4:])


def test_rotary_positions_take_the_place_of_learned_ones():
    model = tiny(width=16, positions="rotary")
    params = noisy(model)
    assert "pos_embed" not in params
    tokens = model.apply({"params": params}, IMAGES)
    turned = model.apply({"params": params}, IMAGES[:, :, ::-1])
    assert np.abs(tokens.cls - turned.cls).max() > 1e-4  # places matter
    noise = jnp.broadcast_to(jnp.array([[0.0, 0.0], [1.0, 1.0]]), (3, 2, 2))
    still = model.apply({"params": params}, IMAGES, rope_noise=noise)
    np.testing.assert_allclose(still.sequence, tokens.sequence, atol=1e-5)
    of_last_block = noise.at[2, 0].set(0.3)
    moved, scanned = (
        model.clone(scan_blocks=scan).apply({"params": params}, IMAGES, rope_noise=of_last_block)
        for scan in (False, True)
    )
    assert np.abs(moved.cls - tokens.cls).max() > 1e-5
    np.testing.assert_allclose(scanned.sequence, moved.sequence, atol=1e-5)


def silu(x):
    return x / (1 + np.exp(-x))


def normed(x, norm, kind):
    if kind == "rms":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"]
    centered = x - x.mean(-1, keepdims=True)
    standard = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return standard * norm["scale"] + norm["bias"]


def linear(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0.0))


def block_by_hand(x, params, *, norm, biases, qk_norm, ffn):
    """One block on tokens [B, T, D] in NumPy, two heads."""
    width = x.shape[-1]
    attn, mlp = params["attn"], params["mlp"]
    y = normed(x, params["norm1"], norm)
    kernel = np.asarray(attn["qkv"]["kernel"], np.float64)
    parts = {}
    for number, name in enumerate(QKV):
        columns = slice(number * width, (number + 1) * width)
        parts[name] = y @ kernel[:, columns]
        if name in biases:
            parts[name] = parts[name] + np.asarray(attn["qkv"]["bias"])[columns]
        parts[name] = parts[name].reshape(*x.shape[:2], 2, width // 2)
    if qk_norm:
        parts["query"] = normed(parts["query"], attn["q_norm"], norm)
        parts["key"] = normed(parts["key"], attn["k_norm"], norm)
    scores = np.einsum("bqhd,bkhd->bhqk", parts["query"], parts["key"]) / np.sqrt(width // 2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weights, parts["value"]).reshape(x.shape)
    x = x + linear(out, attn["proj"])
    y = normed(x, params["norm2"], norm)
    if ffn == "swiglu":
        hidden = silu(linear(y, mlp["gate"])) * linear(y, mlp["value"])
    else:
        hidden = linear(y, mlp["fc1"])
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2
    return x + linear(hidden, mlp["fc2"])


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("qkv_bias", ["full", "masked_key", "none"])
@pytest.mark.parametrize(("qk_norm", "ffn"), [(False, "swiglu"), (True, "mlp")])
def test_a_block_by_hand(norm, qkv_bias, qk_norm, ffn):
    block = Block(
        heads=2,
        hidden_dim=10,
        layer_scale=0.0,
        norm=norm,
        norm_eps=1e-5,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        ffn=ffn,
        kernels=tiny().kernels,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    x = jax.random.normal(jax.random.key(3), (2, 5, 8))
    params = noisy(block, x)
    assert ("attn/qkv/bias" in names_of(params)) == (qkv_bias != "none")
    assert ("norm1/bias" in names_of(params)) == (norm == "layer")
    biases = {"full": QKV, "masked_key": ("query", "value"), "none": ()}[qkv_bias]
    expected = block_by_hand(
        np.asarray(x, np.float64), params, norm=norm, biases=biases, qk_norm=qk_norm, ffn=ffn
    )
    with jax.default_matmul_precision("highest"):
        found = block.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_masked_bias_of_keys_has_no_gradient():
    block = tiny(qkv_bias="masked_key")
    params = noisy(block)
    gradients = jax.grad(lambda p: block.apply({"params": p}, IMAGES).cls.sum())(params)
    query, key, value = np.split(gradients["blocks_0"]["attn"]["qkv"]["bias"], 3)
    assert not key.any() and query.any() and value.any()


@pytest.mark.parametrize("untie_class", [False, True])
@pytest.mark.parametrize("untie_local", [False, True])
def test_class_tokens_may_have_norms_of_their_own(untie_class, untie_local):
    model = tiny(registers=2, untie_class_norm=untie_class, untie_local_norm=untie_local, depth=1)
    params = noisy(model)
    own = {"class_norm": untie_class, "local_class_norm": untie_local}
    assert {name for name in own if name in params} == {name for name in own if own[name]}
    one = tiny(registers=2, depth=1)

    def with_norm(name):
        return one.apply({"params": {**params, "norm": params[name]}}, IMAGES)

    for local in (False, True):
        tokens = model.apply({"params": params}, IMAGES, local=local)
        norm = "local_class_norm" if local and untie_local else "class_norm" * untie_class or "norm"
        expected = with_norm(norm)
        np.testing.assert_allclose(tokens.cls, expected.cls, atol=1e-6)
        np.testing.assert_allclose(tokens.registers, expected.registers, atol=1e-6)
        np.testing.assert_allclose(tokens.patches, with_norm("norm").patches, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        (dict(mlp_ratio=4.0), 48),
        (dict(mlp_ratio=4.0, ffn="swiglu"), 32),
        (dict(mlp_ratio=3.0, ffn="swiglu"), 24),
        (dict(mlp_ratio=2.5, ffn="swiglu"), 24),  # int(30 * 2 / 3) = 20, to a multiple of 8
        (dict(mlp_ratio=4.0, ffn="swiglu", hidden_dim=50), 50),
    ],
    ids=str,
)
def test_hidden_units_follow_from_the_ratio_or_are_said(settings, hidden):
    model = tiny(**settings)
    assert geometry_of(model).hidden == (hidden,)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert params["blocks_0"]["mlp"]["fc2"]["kernel"].shape == (hidden, 12)


def test_uniform_stochastic_depth_keeps_a_fixed_number_of_samples():
    gains = np.asarray(drop_path_gains(jax.random.key(0), 0.3, 4, (5, 2), "uniform"))
    assert gains.shape == (5, 2, 4, 2)
    kept = (gains > 0).reshape(10, 8)
    np.testing.assert_array_equal(kept.sum(axis=0), 7)  # int(10 * 0.7)
    np.testing.assert_allclose(gains[gains > 0], 10 / 7, rtol=1e-6)
    assert len({tuple(column) for column in kept.T}) > 1  # drawn anew for each branch
    at_least_one = drop_path_gains(jax.random.key(0), 0.9, 1, (3,), "uniform")
    np.testing.assert_array_equal(np.sort(at_least_one, axis=0)[:, 0, 0], [0, 0, 3])


def test_all_samples_are_as_likely_to_be_kept():
    draw = jax.vmap(lambda key: drop_path_gains(key, 0.5, 1, (6,), "uniform"))
    gains = draw(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose((gains > 0).mean(axis=0), 0.5, atol=0.04)


@pytest.mark.parametrize("program", ["dinov2", "dinov3"])
@pytest.mark.parametrize("drop", ["rate=0.3,batch=6", "rate=0.4,batch=5", "rate=0.9,batch=3"])
def test_gains_of_a_fixed_number_are_what_both_programs_do_with_it(program, drop, reference):
    arrays = np.load(reference("stochastic_depth_and_rope.npz"))
    root = f"drop/{drop}/{program}"

    def tensor(name):
        return jnp.asarray(arrays[f"{root}/params/{name}"])

    def layer(name):
        return {"kernel": tensor(f"{name}.weight").T, "bias": tensor(f"{name}.bias")}

    params = {
        "norm1": {"scale": tensor("norm1.weight"), "bias": tensor("norm1.bias")},
        "attn": {"qkv": layer("attn.qkv"), "proj": layer("attn.proj")},
        "gamma_1": tensor("ls1.gamma"),
        "norm2": {"scale": tensor("norm2.weight"), "bias": tensor("norm2.bias")},
        "mlp": {"fc1": layer("mlp.fc1"), "fc2": layer("mlp.fc2")},
        "gamma_2": tensor("ls2.gamma"),
    }
    block = Block(
        heads=2,
        hidden_dim=64,
        layer_scale=1.0,
        norm_eps=1e-5,
        kernels=tiny().kernels,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    x = jnp.asarray(arrays[f"drop/{drop}/input"], jnp.float32)
    kept = int(arrays[f"{root}/kept"])
    rate, batch = (float(part.partition("=")[2]) for part in drop.split(","))
    drawn = np.asarray(drop_path_gains(jax.random.key(0), rate, 1, (int(batch),), "uniform"))
    assert (drawn > 0).sum(axis=0).tolist() == [[kept, kept]]
    # dinov3 draws for the second input in between.
    numbers = (0, 1) if program == "dinov2" else (0, 2)
    gains = np.zeros((2, len(x), 1, 1), np.float32)
    for branch_number, number in enumerate(numbers):
        chosen = arrays[f"{root}/permutation/{number}"][:kept]
        gains[branch_number, chosen] = drawn.max()
    with jax.default_matmul_precision("highest"):
        found = block.apply({"params": params}, x, jnp.asarray(gains))
        plain = block.apply({"params": params}, x)
    np.testing.assert_allclose(found, arrays[f"{root}/output"], atol=3e-5)
    np.testing.assert_allclose(plain, arrays[f"{root}/output_eval"], atol=3e-5)
