"""The fine-tuning step: what it starts from, what it learns, and properties of one step."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY_SWIN, normalized, tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.finetune import config as configs
from ibot_jax.finetune.learned import make_learned
from ibot_jax.finetune.step import (
    make_init,
    make_rank_fn,
    make_schedule,
    make_train_step,
)
from ibot_jax.models.build import build_backbone, build_head
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.weights.finetuned import build_classifier

CLASSES = 3


def recipe(**overrides):
    config = configs.get_config()
    config.batch_size = 8
    config.duration = "10 epochs"
    config.drop_path = 0.0
    config.classifier_std = 0.02
    config.optim.update(lr=0.64, warmup="0 epochs", layer_decay=0.5, weight_decay=0.0)
    config.loss.update(mixup=0.0, cutmix=0.0, label_smoothing=0.0)
    config.data.erase = 0.0
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


@pytest.fixture(scope="module")
def model():
    return tiny_config(data__mean=(0.5, 0.25, 0.125), model__depth=1)


@pytest.fixture(scope="module")
def pretrained(model):
    @jax.jit
    def init():
        image, token = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16))
        backbone, head = (
            build_backbone(model.model, model.data.global_size, model.dtype),
            build_head(model.head, model.dtype, teacher=True),
        )
        return {
            "backbone": backbone.init(jax.random.key(0), image)["params"],
            "head": head.init(jax.random.key(1), token)["params"],
        }

    return init()


@pytest.fixture(scope="module")
def plain(model, pretrained):
    return prepare(recipe(duration="20 epochs"), model, pretrained)


@pytest.fixture(scope="module")
def full(model, pretrained):
    config = recipe(
        drop_path=0.3,
        loss__mixup=0.8,
        loss__cutmix=1.0,
        loss__label_smoothing=0.1,
        data__erase=0.25,
        optim__weight_decay=0.05,
    )
    return prepare(config, model, pretrained)


def prepare(config, model, pretrained, size=(16, 16)):
    """Returns the classifier, its first state and the step."""
    resized = model.copy_and_resolve_references()
    resized.data.global_size = size
    described = {"classes": CLASSES, "projection": 0}
    if config.start == "projection":
        described["projection"] = model.head.hidden_dim
    classifier = build_classifier(resized, described, init_std=config.classifier_std)
    plan = make_plan(config, 16)
    learned = make_learned(config, plan)
    state = jax.jit(make_init(config.optim, plan, classifier, (16, 16), (*size, 3), learned))(
        jax.random.key(2), pretrained
    )
    step = make_train_step(
        config.optim,
        config.loss,
        plan,
        classifier,
        model.data.mean,
        model.data.std,
        drop_path=config.drop_path,
        erase=config.data.erase,
        learned=learned,
    )
    return classifier, state, jax.jit(step)


def batch(seed=0, size=(16, 16)):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (8, *size, 3), dtype=np.uint8),
        "labels": np.arange(8, dtype=np.int32) % CLASSES,
    }


@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_it_starts_from_the_class_token_of_the_pretrained_model(model, pretrained, size):
    """At another size, positions that the backbone would have resampled are its own now."""
    classifier, state, _ = prepare(recipe(), model, pretrained, size)
    patches = size[0] // 4 * (size[1] // 4)
    assert state.params["backbone"]["pos_embed"].shape == (1, 1 + patches, 16)
    images = normalized(model, batch(size=size)["images"])
    tokens = build_backbone(model.model, model.data.global_size, model.dtype).apply(
        {"params": pretrained["backbone"]}, images
    )
    layer = state.params["classifier"]
    expected = tokens.cls @ layer["kernel"] + layer["bias"]
    found = classifier.apply({"params": state.params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(layer["kernel"]) == pytest.approx(0.02, rel=0.3)
    assert not layer["bias"].any()


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_the_projections_first_layer_can_stay_under_the_classifier(model, pretrained, act):
    model = model.copy_and_resolve_references()
    model.head.act = act
    classifier, state, _ = prepare(recipe(start="projection"), model, pretrained)
    images = normalized(model, batch()["images"])
    token = (
        build_backbone(model.model, model.data.global_size, model.dtype)
        .apply({"params": pretrained["backbone"]}, images)
        .cls
    )
    first, layer = pretrained["head"]["mlp_0"], state.params["classifier"]
    hidden = token @ first["kernel"] + first["bias"]
    hidden = jax.nn.relu(hidden) if act == "relu" else jax.nn.gelu(hidden, approximate=False)
    expected = hidden @ layer["kernel"] + layer["bias"]
    found = classifier.apply({"params": state.params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_step_is_adamw_on_the_mean_cross_entropy(model, plain):
    """Adam's first update is the sign of the gradient, of optax's loss with whole labels."""
    classifier, state, step = plain
    images, labels = batch()["images"], batch()["labels"]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = classifier.apply({"params": params}, normalized(model, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradients = loss(state.params)
    after, metrics = step(state, batch(), jax.random.key(0))
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["lr"] == pytest.approx(0.64 * 8 / 256)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-4)
    for name, power in (("cls_token", 2), ("pos_embed", 2)):
        gradient = gradients["backbone"][name]
        moved = after.params["backbone"][name] - state.params["backbone"][name]
        clear = jnp.abs(gradient) > 1e-5
        np.testing.assert_allclose(
            moved[clear], (-0.02 * 0.5**power * jnp.sign(gradient))[clear], rtol=1e-2
        )


def changed(before, after):
    """Returns the names of the parameters that are others than before."""
    before, after = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (before, after))
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_what_is_frozen_stays_and_has_no_moments(model, pretrained, plain):
    config = recipe(optim__freeze="backbone: 100%; backbone/blocks_0/mlp: 0 steps")
    _, state, step = prepare(config, model, pretrained)
    after, _ = step(state, batch(), jax.random.key(0))
    moved = changed(state.params, after.params)
    assert {name.rpartition("/")[0] for name in moved} == {
        "classifier",
        "backbone/blocks_0/mlp/fc1",
        "backbone/blocks_0/mlp/fc2",
    }
    # As AdamW moves them where all learns: what is frozen changes no other gradient.
    whole, _ = plain[2](plain[1], batch(), jax.random.key(0))
    ours, theirs = (x.params["backbone"]["blocks_0"]["mlp"] for x in (after, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)
    numbers = sum(x.size for x in jax.tree.leaves(state.opt_state[0].mu))
    assert numbers == sum(
        x.size
        for x in jax.tree.leaves(
            [state.params["classifier"], state.params["backbone"]["blocks_0"]["mlp"]]
        )
    )


def test_adapters_learn_in_place_of_the_backbone(model, pretrained):
    """B begins at zero, so the first logits are the plain ones, and A waits for B to move."""
    config = recipe(lora__rank=2, lora__targets="attn/qkv")
    classifier, state, step = prepare(config, model, pretrained)
    _, plain, _ = prepare(recipe(), model, pretrained)
    learned = make_learned(config, make_plan(config, 16))
    images = normalized(model, batch()["images"])
    np.testing.assert_array_equal(
        classifier.apply({"params": learned.lora.merged(state.params)}, images),
        classifier.apply({"params": plain.params}, images),
    )
    after, _ = step(state, batch(), jax.random.key(0))
    assert changed(state.params, after.params) == {
        "classifier/kernel",
        "classifier/bias",
        "lora/blocks_0/attn/qkv/b",
    }
    more, _ = step(after, batch(), jax.random.key(0))
    assert "lora/blocks_0/attn/qkv/a" in changed(after.params, more.params)
    adapter, kernel = (
        tree["blocks_0"]["attn"]["qkv"] for tree in (more.params["lora"], more.params["backbone"])
    )
    merged = learned.lora.merged(more.params)["backbone"]["blocks_0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(
        merged, kernel["kernel"] + 16 / 2 * adapter["a"] @ adapter["b"], atol=1e-6
    )
    assert learned.numbers(state.params)[0] == 2 * (16 + 48) + 16 * CLASSES + CLASSES


def test_the_learning_rate_scales_with_the_batch_and_ends_low():
    config = recipe(batch_size=512, optim__warmup="1 epochs", optim__min_lr=1e-6)
    schedule = make_schedule(config.optim, make_plan(config, 1024))
    assert float(schedule(jnp.float32(0))) == 0
    assert float(schedule(jnp.float32(2))) == pytest.approx(0.64 * 2)
    assert float(schedule(jnp.float32(20))) == pytest.approx(1e-6, abs=1e-7)


def test_it_learns_to_tell_noise_apart(model, plain):
    classifier, state, step = plain
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch(), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(CLASSES), abs=0.1) and losses[-1] < 0.05
    rank = jax.jit(make_rank_fn(classifier, model.data.mean, model.data.std))
    ranked = rank(state.params, batch()["images"])
    np.testing.assert_array_equal(ranked[:, 0], batch()["labels"])
    np.testing.assert_array_equal(np.sort(ranked, axis=1), np.tile([0, 1, 2], (8, 1)))


def test_randomness_comes_from_the_key_and_the_step(full):
    _, state, step = full
    losses = [
        float(step(state.replace(step=jnp.int32(n)), batch(), jax.random.key(k))[1]["loss"])
        for n, k in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_one_device_and_eight_make_the_same_step(full):
    _, state, step = full
    one, metrics = step(state, batch(), jax.random.key(0))
    mesh = make_mesh()
    assert mesh.size == 8
    spread = jax.device_put(state, replicated(mesh))
    eight, others = step(spread, to_global(batch(), mesh), jax.random.key(0))
    np.testing.assert_allclose(others["loss"], metrics["loss"], rtol=1e-5)
    # Adam divides by the gradient's size, so tiny gradients turn rounding into whole updates.
    moments = [optax.tree.get(s.opt_state, "mu") for s in (one, eight)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *moments)


def test_a_state_that_is_not_finite_stays_as_it_was(plain):
    _, state, step = plain
    broken = jax.tree.map(jnp.copy, state)
    broken.params["classifier"]["bias"] = jnp.full(CLASSES, jnp.inf)
    after, metrics = step(broken, batch(), jax.random.key(0))
    assert not metrics["finite"] and not after.finite and after.step == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, broken.params)
    healed = after.replace(params=state.params)
    assert not step(healed, batch(), jax.random.key(0))[0].finite  # it remains so


@pytest.mark.slow
def test_a_swin_learns_at_rates_that_fall_from_block_to_block_over_stages():
    """Adam's first update is the rate, wherever there is a gradient; layers by hand."""
    model = tiny_config(**TINY_SWIN)  # two blocks, a merging, one block
    backbone = build_backbone(model.model, model.data.global_size, model.dtype)
    pretrained = backbone.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    config = recipe(optim__min_lr=0.64)
    _, before, step = prepare(config, model, {"backbone": pretrained})
    params = jax.tree.map(np.array, before.params)
    state, metrics = step(before, batch(), jax.random.key(3))
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, params)
    swin, lr = moved["backbone"], 0.64 * 8 / 256
    for factor, of_layer in {
        0.5**4: [swin["patch_embed"], swin["patch_norm"]],
        0.5**3: [swin["stages_0"]["blocks_0"]["mlp"]],
        0.5**2: [swin["stages_0"]["blocks_1"]["mlp"], swin["stages_0"]["merge"]],
        0.5: [swin["stages_1"]["blocks_0"]["attn"]["proj"], swin["stages_1"]["blocks_0"]["mlp"]],
        1: [swin["norm"], moved["classifier"]],
    }.items():
        np.testing.assert_allclose(jax.tree.leaves(of_layer), lr * factor, rtol=0.02)
    assert swin["mask_token"] == 0
