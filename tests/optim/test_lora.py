"""Adapters of low rank, against closed forms in NumPy and the gradients of a plain model."""

import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import inexact_products
from tiny import TINY_SWIN, tiny_batch, tiny_config, tiny_plan

from ibot_jax.errors import UserError
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone
from ibot_jax.optim.lora import Lora, make_lora
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import (
    make_freezing,
    make_init,
    make_optimizer,
    make_schedules,
    make_train_step,
    name_problems,
)

KEY = jax.random.key(0)
ONE = make_mesh(jax.devices()[:1])
SCALE = 6 / 4  # alpha over rank
SWIGLU = ("attn/qkv", "attn/proj", "mlp/gate", "mlp/value", "mlp/fc2")
LORA = dict(lora__rank=4, lora__alpha=6.0)


def flat(tree):
    return {
        name: np.asarray(leaf)
        for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()
    }


def by_hand(params):
    """A student's backbone as networks take it, in NumPy."""
    backbone, adapters = flat(params["backbone"]), flat(params["lora"])
    for name in {name.rpartition("/")[0] for name in adapters}:
        product = adapters[f"{name}/a"] @ adapters[f"{name}/b"]
        backbone[f"{name}/kernel"] = backbone[f"{name}/kernel"] + SCALE * product
    return backbone


def shapes(config):
    return jax.eval_shape(make_init(config, tiny_plan(config)), KEY)


def adapted(config):
    """The layers with adapters, and the shapes of these."""
    found = flax.traverse_util.flatten_dict(shapes(config).params["lora"], sep="/")
    layers = {name.rpartition("/")[0] for name in found}
    return {name: (found[f"{name}/a"].shape, found[f"{name}/b"].shape) for name in layers}


def moved(params, seed=1):
    """Parameters whose B is not zero."""
    rng = np.random.default_rng(seed)
    lora = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), params["lora"])
    return params | {"lora": lora}


def test_every_layer_of_a_block_has_one_by_default():
    r = 4
    of_block = {
        "attn/qkv": ((16, r), (r, 48)),
        "attn/proj": ((16, r), (r, 16)),
        "mlp/fc1": ((16, r), (r, 64)),
        "mlp/fc2": ((64, r), (r, 16)),
    }
    expected = {f"blocks_{i}/{name}": of_block[name] for i in (0, 1) for name in of_block}
    assert adapted(tiny_config(**LORA)) == expected


@pytest.mark.parametrize(
    ("overrides", "targets", "expected"),
    [
        ({}, "attn/qkv", {"blocks_0/attn/qkv", "blocks_1/attn/qkv"}),
        ({}, "blocks_1/*/fc? patch_embed/proj", {"blocks_1/mlp/fc1", "blocks_1/mlp/fc2", "patch"}),
        (
            dict(model__ffn="swiglu", model__qk_norm=True),
            "blocks_0/attn/* blocks_0/mlp/*",
            {f"blocks_0/{name}" for name in SWIGLU},
        ),
        (
            TINY_SWIN,
            "attn/qkv merge/*",
            {f"stages_{name}/attn/qkv" for name in ("0/blocks_0", "0/blocks_1", "1/blocks_0")}
            | {"stages_0/merge/reduction"},
        ),
    ],
)
def test_globs_name_layers_of_any_backbone(overrides, targets, expected):
    expected = {name.replace("patch", "patch_embed/proj") for name in expected}
    assert set(adapted(tiny_config(**LORA, lora__targets=targets, **overrides))) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(lora__targets="attn/qvk mlp/*"), "lora.targets='attn/qvk mlp/*' has 'attn/qvk', "
         "which names no matrix of the backbone; did you mean attn/qkv?"),
        (dict(lora__targets="norm1"), "has 'norm1', which names no matrix of the backbone; there "
         "are attn/proj, attn/qkv, mlp/fc1, mlp/fc2, patch_embed/proj"),
        (dict(lora__rank=17), "lora.rank=17 is larger than a side of blocks_0/attn/proj, 16 x 16; "
         "lower it, or leave that out of lora.targets"),
        (dict(optim__freeze="backbone: 2 steps"), "optim.freeze='backbone: 2 steps' lets "
         "backbone/blocks_0/attn/proj/kernel learn, which has an adapter; name others, or leave "
         "its layer out of lora.targets"),
        (dict(optim__freeze="lora: 100%; head: 100%"), "leaves nothing to train at first"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_compiles(overrides, message):
    config = tiny_config(**LORA | overrides)
    (found,) = name_problems(config, tiny_plan(config))
    assert message in found
    with pytest.raises(UserError, match=re.escape(message)):
        shapes(config)


def test_what_is_merged_is_the_published_sum():
    config = tiny_config(**LORA)
    lora = make_lora(config.lora)
    params = moved(jax.jit(make_init(config, tiny_plan(config)))(KEY).params)
    merged = lora.merged(params)
    assert merged.keys() == {"backbone", "head"}
    ours, expected = flat(merged["backbone"]), by_hand(params)
    assert ours.keys() == expected.keys()
    changed = {
        name for name in ours if not np.array_equal(ours[name], flat(params["backbone"])[name])
    }
    assert changed == {f"{layer}/kernel" for layer in adapted(config)}
    for name in ours:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-7)
    assert inexact_products(jax.value_and_grad(lambda p: total(lora.merged(p))), params) == []


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def test_gradients_are_those_of_a_plain_model_times_the_other_factor():
    """They are dA = s dW B^T and dB = s A^T dW; dW is of the model with the merged matrices."""
    with jax.enable_x64(True):
        config = tiny_config(**LORA, dtype="float64")
        backbone = build_backbone(config.model, config.data.global_size, "float64")
        params = moved(jax.jit(make_init(config, tiny_plan(config)))(KEY).params)
        images = jax.random.normal(KEY, (2, 16, 16, 3))
        weights = jax.random.normal(KEY, (2, 17, 16))

        @jax.jit
        @jax.grad
        def plain(tree):
            return jnp.sum(weights * backbone.apply({"params": tree}, images).sequence)

        @jax.jit
        @jax.grad
        def ours(adapters):
            merged = make_lora(config.lora).merged(params | {"lora": adapters})
            tokens = backbone.apply({"params": merged["backbone"]}, images)
            return jnp.sum(weights * tokens.sequence)

        by_weight = flat(plain(flax.traverse_util.unflatten_dict(by_hand(params), sep="/")))
        found, adapters = flat(ours(params["lora"])), flat(params["lora"])
        for layer in adapted(config):
            a, b, dw = adapters[f"{layer}/a"], adapters[f"{layer}/b"], by_weight[f"{layer}/kernel"]
            np.testing.assert_allclose(found[f"{layer}/a"], SCALE * dw @ b.T, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found[f"{layer}/b"], SCALE * a.T @ dw, rtol=1e-9, atol=1e-12)


class TestTraining:
    """Of steps with adapters and without, from one key."""

    @pytest.fixture(scope="class")
    def runs(self):
        """States from the first one on, and the metrics of each step, by whether with adapters."""

        def run(config, steps):
            plan = tiny_plan(config)
            state = jax.jit(make_init(config, plan))(KEY)
            step, states, metrics = jax.jit(make_train_step(config, plan, ONE)), [state], []
            for seed in range(steps):
                state, values = step(state, tiny_batch(config, seed), KEY)
                states.append(state)
                metrics.append(values)
            return states, metrics

        common = dict(optim__freeze_last_layer="0 steps", teacher_momentum=0.9)
        return run(tiny_config(**LORA, **common), 3), run(tiny_config(**common), 1)

    @staticmethod
    def but_for_rounding(found, expected):
        """The compiler may round the numbers of two programs apart."""
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_it_begins_as_a_training_without(self, runs):
        (ours, metrics), (theirs, expected) = runs
        for part in ("backbone", "head"):
            jax.tree.map(self.but_for_rounding, ours[0].params[part], theirs[0].params[part])
        jax.tree.map(self.but_for_rounding, teacher_params(ours[0]), teacher_params(theirs[0]))
        for name in ("loss", "class_loss", "patch_loss"):
            self.but_for_rounding(metrics[0][name], expected[0][name])
        for name, leaf in flat(ours[0].params["lora"]).items():
            if name.endswith("/b"):
                assert not leaf.any()
            else:  # uniform within 1 / sqrt(inputs)
                bound = leaf.shape[0] ** -0.5
                assert 0.9 * bound < np.abs(leaf).max() <= bound

    def test_adapters_and_heads_learn_and_nothing_else_moves(self, runs):
        (states, _), _ = runs
        first, last = states[0].params, states[-1].params
        jax.tree.map(np.testing.assert_array_equal, first["backbone"], last["backbone"])
        for part in ("lora", "head"):
            before, after = flat(first[part]), flat(last[part])
            still = {name for name in after if np.array_equal(before[name], after[name])}
            assert still == ({"last_layer/g"} if part == "head" else set())  # norms of prototypes

    def test_the_teacher_averages_what_is_merged(self, runs):
        (states, metrics), _ = runs
        for before, after, values in zip(states, states[1:], metrics, strict=False):
            momentum = float(values["teacher_momentum"])
            old, new = flat(teacher_params(before)["backbone"]), by_hand(after.params)
            teacher = flat(teacher_params(after)["backbone"])
            for name in teacher:
                expected = momentum * old[name] + (1 - momentum) * new[name]
                np.testing.assert_allclose(teacher[name], expected, rtol=1e-5, atol=1e-7)
        first, last = (flat(teacher_params(state)["backbone"]) for state in (states[0], states[-1]))
        still = {name for name in last if np.array_equal(first[name], last[name])}
        assert still == {name for name in last if "/attn/" not in name and "/mlp/" not in name} | {
            name for name in last if name.endswith("bias")
        }


def moments(config):
    """Bytes of the optimiser's state without the teacher, and of some parts of the parameters."""
    state = shapes(config)

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if x.ndim)

    params = state.params | {"g": state.params["head"]["last_layer"]["g"]}
    sizes = {part: size(tree) for part, tree in params.items()}
    return size(state.opt_state) - size(teacher_params(state)), sizes


def test_moments_are_of_what_learns_alone():
    found, sizes = moments(tiny_config(**LORA))
    assert found == 2 * (sizes["lora"] + sizes["head"] - sizes["g"])
    # By block r (inputs + outputs) of each of four layers.
    assert sizes["lora"] == 4 * 2 * 4 * (64 + 32 + 80 + 80)
    whole, sizes = moments(tiny_config())
    assert whole == 2 * (sizes["backbone"] + sizes["head"] - sizes["g"])


def test_what_else_learns_is_said_by_name():
    config = tiny_config(**LORA, optim__freeze="backbone/*norm*: 0 steps; lora: 2 steps")
    freezing = make_freezing(config, tiny_plan(config))
    assert freezing.thaws == (2,)
    params = shapes(config).params
    for step, adapters in ((0, False), (2, True)):
        trained = flat(freezing.trained(params, step))
        assert trained == {
            name: name.startswith("head/")
            or ("norm" in name.partition("backbone/")[2])
            or (adapters and name.startswith("lora/"))
            for name in trained
        }


def test_rates_reach_adapters_by_layer_and_by_name():
    """An update of Adam without memory is the rate, whatever the gradient."""
    config = tiny_config(
        **LORA,
        optim__layer_decay=0.5,
        optim__rates="lora/blocks_1/mlp: 3",
        optim__betas=(0.0, 0.0),
        optim__weight_decay=0.0,
        optim__weight_decay_end=0.0,
        optim__clip=0.0,
    )
    plan = tiny_plan(config)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes(config).params)
    tx = make_optimizer(config, plan)
    updates, _ = jax.jit(tx.update)(
        params, tx.init(params), params, step=jnp.float32(plan.total_steps // 2)
    )
    updates = flat(updates)
    full = updates["head/mlp_0/kernel"].ravel()[0]
    # Of two blocks: layer n of 0 to 3 has 0.5 ** (3 - n).
    for name, factor in (
        ("blocks_0/attn/qkv/a", 0.25),
        ("blocks_0/mlp/fc1/b", 0.25),
        ("blocks_1/attn/proj/b", 0.5),
        ("blocks_1/mlp/fc2/a", 1.5),
    ):
        np.testing.assert_allclose(updates[f"lora/{name}"], full * factor, rtol=1e-5)
    assert not any(leaf.any() for name, leaf in updates.items() if name.startswith("backbone/"))


def test_decay_draws_adapters_to_zero():
    config = tiny_config(**LORA, optim__name="sgd", optim__weight_decay=0.1)
    plan = tiny_plan(config)
    params = moved(jax.jit(make_init(config, plan))(KEY).params)
    tx = make_optimizer(config, plan)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params, step=jnp.float32(3))
    rate, decay = (
        float(make_schedules(config, plan)[name](3.0)) for name in ("lr", "weight_decay")
    )
    for name, leaf in flat(params["lora"]).items():
        np.testing.assert_allclose(flat(updates["lora"])[name], -rate * decay * leaf, rtol=1e-5)


def test_without_a_rank_there_is_nothing():
    params = shapes(tiny_config()).params
    assert params.keys() == {"backbone", "head"}
    assert Lora().merged(params) is params
    assert Lora().init(KEY, params) is params
