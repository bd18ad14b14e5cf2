"""The backbone against the original's outputs and against what its description promises."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.config import VIT_SIZES
from ibot_jax.models.block import drop_path_gains
from ibot_jax.models.vit import ViT
from ibot_jax.weights.foreign import original_names


def tiny(**overrides):
    kwargs = dict(
        patch_size=4,
        width=12,
        depth=3,
        heads=2,
        mlp_ratio=4.0,
        layer_scale=0.0,
        grid=(4, 4),
    )
    return ViT(**{**kwargs, **overrides})


@pytest.fixture(scope="module")
def recorded(reference):
    arrays = np.load(reference("vit_forward.npz"))
    sizes = json.loads(str(arrays["config"]))
    model = ViT(
        patch_size=sizes["patch_size"],
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        mlp_ratio=4.0,
        layer_scale=0.0,
        grid=(14, 14),
    )
    tensors = {
        f"backbone.{name.removeprefix('params/')}": arrays[name]
        for name in arrays.files
        if name.startswith("params/")
    }
    return arrays, model, {"params": original_names.to_flax(tensors, True)["backbone"]}


@pytest.mark.parametrize("size", ["224", "96", "384x256"])
class TestAgainstTheOriginal:
    def images(self, arrays, size):
        return arrays[f"{size}/image"].transpose(0, 2, 3, 1)

    def test_tokens(self, recorded, size):
        arrays, model, variables = recorded
        tokens = jax.jit(model.apply)(variables, self.images(arrays, size))
        np.testing.assert_allclose(tokens.sequence, arrays[f"{size}/tokens"], atol=2e-5)

    def test_masked_tokens(self, recorded, size):
        arrays, model, variables = recorded
        masks = arrays[f"{size}/mask"]
        tokens = jax.jit(model.apply)(variables, self.images(arrays, size), masks)
        np.testing.assert_allclose(tokens.sequence, arrays[f"{size}/tokens_masked"], atol=2e-5)
        assert np.abs(arrays[f"{size}/tokens_masked"] - arrays[f"{size}/tokens"]).max() > 0.1

    def test_last_attention(self, recorded, size):
        arrays, model, variables = recorded
        images, expected = self.images(arrays, size), arrays[f"{size}/last_attention"]
        attention = model.apply(variables, images, method="attention")
        np.testing.assert_allclose(attention.weights, expected, atol=1e-5)
        rows, columns = (side // 16 for side in images.shape[1:3])
        of_class = expected[:, :, 0, 1:].reshape(*expected.shape[:2], rows, columns)
        np.testing.assert_allclose(attention.cls, of_class, atol=1e-5)
        # Keys by hand, from what the last block is given.
        (given,) = model.apply(variables, images, (model.depth - 2,), False, method="layers")
        x = np.asarray(given.patches, np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        params = variables["params"][f"blocks_{model.depth - 1}"]
        x = x * params["norm1"]["scale"] + params["norm1"]["bias"]
        own = slice(model.width, 2 * model.width)
        expected = x @ params["attn"]["qkv"]["kernel"][:, own] + params["attn"]["qkv"]["bias"][own]
        np.testing.assert_allclose(attention.keys, expected, atol=2e-5)

    def test_layers(self, recorded, size):
        arrays, model, variables = recorded
        wanted = range(model.depth - 2, model.depth)
        layers = model.apply(variables, self.images(arrays, size), wanted, method="layers")
        for tokens, expected in zip(layers, arrays[f"{size}/last2"], strict=True):
            np.testing.assert_allclose(tokens.sequence, expected, atol=2e-5)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_parameters_are_those_of_the_published_models(reference, size):
    published = json.loads(reference("state_dict_shapes.json").read_text())[f"vit_{size}"]
    backbone = {k: tuple(v) for k, v in published.items() if k.startswith("backbone.")}
    model = tiny(**VIT_SIZES[size], patch_size=16, grid=(14, 14))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    ours = original_names.to_torch(
        {"backbone": jax.tree.map(lambda s: np.broadcast_to(0.0, s.shape), shapes["params"])}, 16
    )
    assert {name: tensor.shape for name, tensor in ours.items()} == backbone


def test_tokens_lie_as_the_patches_in_the_image():
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    model = tiny(depth=0)  # where no token sees another
    variables = model.init(jax.random.key(0), images)
    tokens = model.apply(variables, images)
    assert tokens.cls.shape == (2, 12) and tokens.registers.shape == (2, 0, 12)
    assert tokens.patches.shape == (2, 4, 4, 12)
    changed = model.apply(variables, images.at[1, 4:8, 12:].add(1))
    differs = (changed.patches != tokens.patches).any(axis=-1)
    np.testing.assert_array_equal(np.argwhere(differs), [[1, 1, 3]])
    np.testing.assert_array_equal(changed.cls, tokens.cls)
    np.testing.assert_array_equal(tokens.sequence[:, 0], tokens.cls)
    np.testing.assert_array_equal(tokens.sequence[:, 1 + 4 * 1 + 3], tokens.patches[:, 1, 3])


def test_layers_come_in_the_order_that_they_are_asked_for():
    images = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    model = tiny()
    variables = model.init(jax.random.key(0), images)
    last, first = model.apply(variables, images, (2, 0), method="layers")
    jax.tree.map(np.testing.assert_array_equal, last, model.apply(variables, images))
    assert np.abs(first.cls - last.cls).max() > 1e-3


def test_the_mask_token_exists_without_a_mask():
    params = tiny().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    assert params["mask_token"].shape == (1, 12)


def test_a_fully_masked_image_hides_its_pixels():
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    model = tiny()
    variables = model.init(jax.random.key(0), images)
    tokens = model.apply(variables, images, jnp.ones((2, 4, 4), bool))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), tokens)


def test_pixels_that_fill_no_patch_are_cut_off():
    images = jax.random.normal(jax.random.key(1), (1, 18, 19, 3))
    model = tiny()
    variables = model.init(jax.random.key(0), images)
    whole, cut = (model.apply(variables, x) for x in (images, images[:, :16, :16]))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_stochastic_depth_skips_branches_sample_by_sample():
    rates = np.array([0.0, 0.2, 0.4])
    gains = drop_path_gains(jax.random.key(0), 0.4, 3, (20_000,))  # [samples, depth, 2]
    for block, rate in enumerate(rates):
        assert set(np.unique(gains[:, block])) <= {0, np.float32(1 / np.float32(1 - rate))}
    np.testing.assert_allclose((gains == 0).mean(axis=(0, 2)), rates, atol=0.01)
    np.testing.assert_allclose(gains.mean(axis=(0, 2)), 1, atol=0.02)
    both = np.mean((gains[:, 2, 0] == 0) & (gains[:, 2, 1] == 0))
    np.testing.assert_allclose(both, 0.16, atol=0.01)  # branches are drawn independently


def test_gains_multiply_the_branches():
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    model = tiny(depth=2)
    variables = model.init(jax.random.key(0), images)
    full = model.apply(variables, images).sequence
    # All ones is as none at all; all zeros leaves only the embedding; samples do not mix.
    gains = np.ones((3, 2, 2), np.float32)
    gains[1] = 0
    mixed = model.apply(variables, images, None, gains).sequence
    np.testing.assert_allclose(mixed[::2], full[::2], atol=1e-6)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("blocks")}
    embedded = tiny(depth=0).apply({"params": params}, images).sequence
    np.testing.assert_allclose(mixed[1], embedded[1], atol=1e-6)


@pytest.mark.parametrize("gains", [None, "drawn"])
@pytest.mark.parametrize("remat", ["none", "dots", "blocks"])
@pytest.mark.parametrize("scan_blocks", [False, True])
def test_scan_and_rematerialisation_change_neither_tokens_nor_parameters(gains, remat, scan_blocks):
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    plain, other = tiny(), tiny(remat=remat, scan_blocks=scan_blocks)
    variables = plain.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, other.init(jax.random.key(0), images))
    if gains:
        gains = drop_path_gains(jax.random.key(2), 0.5, 3, (2,))

    def run(model, variables):
        return (model.apply(variables, images, None, gains).sequence ** 2).sum()

    ours, expected = (jax.value_and_grad(run, 1)(m, variables) for m in (other, plain))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-4), ours, expected)


@pytest.mark.parametrize("scan_blocks", [False, True])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_calls_of_several_sizes_together_are_those_apart(positions, scan_blocks):
    model = tiny(positions=positions, scan_blocks=scan_blocks, width=16, untie_local_norm=True)
    keys = jax.random.split(jax.random.key(1), 4)
    masked = dict(
        images=jax.random.normal(keys[0], (2, 16, 16, 3)),
        masks=jax.random.bernoulli(keys[1], 0.5, (2, 4, 4)),
        gains=drop_path_gains(keys[2], 0.5, 3, (2,)),
    )
    local = dict(images=jax.random.normal(keys[3], (5, 8, 8, 3)), local=True)
    variables = model.init(jax.random.key(0), masked["images"])
    together = model.apply(variables, [masked, local], method="together")
    apart = [model.apply(variables, **one) for one in (masked, local)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), together, apart)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="its XLA drops barriers before it fuses")
def test_a_block_costs_the_same_at_any_depth():
    """Left alone, XLA's CPU compiler repeats in each block what the blocks behind it did."""
    images = jnp.zeros((2, 16, 16, 3))

    def flops(depth):
        model = tiny(depth=depth)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        gradient = jax.grad(lambda variables: (model.apply(variables, images).sequence ** 2).sum())
        return jax.jit(gradient).lower(variables).compile().cost_analysis()["flops"]

    four, eight, sixteen = map(flops, (4, 8, 16))
    np.testing.assert_allclose(sixteen - eight, 2 * (eight - four), rtol=0.01)


def test_one_loop_compiles_one_block():
    images = jnp.zeros((1, 16, 16, 3))

    def dots(model):
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        return jax.jit(model.apply).lower(variables, images).as_text().count("dot_general")

    assert dots(tiny(depth=8)) > 3 * dots(tiny(depth=8, scan_blocks=True))


def test_layer_scale_multiplies_each_branch():
    images = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    plain, scaled = tiny(depth=1), tiny(depth=1, layer_scale=1.0)
    variables = scaled.init(jax.random.key(0), images)
    assert set(variables["params"]["blocks_0"]) >= {"gamma_1", "gamma_2"}
    tokens = [model.apply(variables, images).sequence for model in (scaled, plain)]
    np.testing.assert_allclose(*tokens, atol=1e-6)
    block = variables["params"]["blocks_0"]
    block["gamma_1"], block["gamma_2"] = np.zeros(12), np.zeros(12)
    block["attn"], block["mlp"] = jax.tree.map(lambda x: x + 1, (block["attn"], block["mlp"]))
    through = tiny(depth=0).apply(
        {"params": {k: v for k, v in variables["params"].items() if k != "blocks_0"}}, images
    )
    skipped = scaled.apply(variables, images).sequence
    np.testing.assert_allclose(skipped, through.sequence, atol=1e-6)


def test_bfloat16_computes_in_bfloat16_from_float32_parameters():
    model = tiny(dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    variables = model.init(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    tokens = model.apply(variables, images).sequence
    assert tokens.dtype == jnp.bfloat16
    expected = tiny().apply(variables, images).sequence
    np.testing.assert_allclose(tokens.astype(jnp.float32), expected, atol=0.1)
