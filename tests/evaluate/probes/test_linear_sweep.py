"""The classifiers of a sweep learn what each would learn alone."""

import jax
import numpy as np
import pytest

from ibot_jax.evaluate.features.extract import make_feature_fn
from ibot_jax.evaluate.probes import linear_sweep
from ibot_jax.evaluate.probes.linear_sweep import Sweep, Variant
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.load import load

WIDTH, BLOCKS, CLASSES, BATCH = 3, 2, 7, 16
RATES = (0.5, 2.0, 8.0)


@pytest.fixture(params=[1, 8])
def mesh(request):
    return make_mesh(jax.devices()[: request.param])


def make_sweep(mesh):
    return Sweep(
        variants=(Variant("cls", 2), Variant("mean", 1), Variant("cls+mean", 1)),
        widths=(WIDTH,) * BLOCKS,
        rates=RATES,
        slots=-(-len(RATES) // mesh.size) * mesh.size,
        num_classes=CLASSES,
        batch_size=BATCH,
        steps_per_epoch=2,
        epochs=4,
    )


def batches(number):
    rng = np.random.default_rng(0)
    for _ in range(number):
        features = rng.normal(size=(BATCH, 2 * BLOCKS * WIDTH)).astype(np.float32)
        yield features, rng.integers(0, CLASSES, BATCH)


def columns(features, variant):
    """Returns a variant's features by the places of class tokens and means."""
    cls = {1: slice(3, 6), 2: slice(0, 6)}[variant.blocks]
    mean = {1: slice(9, 12), 2: slice(6, 12)}[variant.blocks]
    parts = {"cls": [cls], "mean": [mean], "cls+mean": [cls, slice(9, 12)]}[variant.kind]
    return np.concatenate([features[:, part] for part in parts], axis=1)


def test_each_learns_as_sgd_with_momentum_would_alone(mesh):
    """Six steps in NumPy, float64: PyTorch's momentum, a cosine by whole epochs."""
    sweep = make_sweep(mesh)
    state = linear_sweep.make_init(sweep, 2 * BLOCKS * WIDTH)(jax.random.key(0))
    first = jax.device_get(state.params)
    step = jax.jit(linear_sweep.make_train_step(sweep, mesh))
    for features, labels in batches(6):
        state, losses = step(state, features, labels)
    for variant in sweep.variants:
        for s, rate in enumerate(RATES):
            weights, bias = (np.float64(first[variant.name][k][s]) for k in ("kernel", "bias"))
            momentum = np.zeros_like(weights), np.zeros_like(bias)
            for number, (features, labels) in enumerate(batches(6)):
                x = columns(features, variant)
                logits = x @ weights + bias
                probs = np.exp(logits - logits.max(axis=1, keepdims=True))
                probs /= probs.sum(axis=1, keepdims=True)
                loss = -np.mean(np.log(probs[np.arange(BATCH), labels]))
                error = (probs - np.eye(CLASSES)[labels]) / BATCH
                momentum = 0.9 * momentum[0] + x.T @ error, 0.9 * momentum[1] + error.sum(axis=0)
                lr = rate * BATCH / 256 * (1 + np.cos(np.pi * (number // 2) / 4)) / 2
                weights, bias = weights - lr * momentum[0], bias - lr * momentum[1]
            ours = state.params[variant.name]
            np.testing.assert_allclose(ours["kernel"][s], weights, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(ours["bias"][s], bias, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(losses[variant.name][s], loss, rtol=1e-4)


def test_first_weights_do_not_depend_on_the_number_of_devices():
    one, eight = (
        linear_sweep.make_init(make_sweep(make_mesh(jax.devices()[:n])), 12)(
            jax.random.key(0)
        ).params["cls-2"]["kernel"]
        for n in (1, 8)
    )
    np.testing.assert_array_equal(one, eight[: len(RATES)])
    assert len(eight) == 8
    assert np.asarray(one).std() == pytest.approx(0.01, rel=0.2)


def test_hits_are_those_of_sorting_the_logits(mesh):
    sweep = make_sweep(mesh)
    rng = np.random.default_rng(1)
    (features, labels), *_ = batches(1)
    labels[-1] = -1  # fills up
    params = linear_sweep.make_init(sweep, 12)(jax.random.key(3)).params
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    hits = jax.jit(linear_sweep.make_count(sweep, mesh))(params, features, labels)
    for variant in sweep.variants:
        for s in range(len(RATES)):
            stack = params[variant.name]
            logits = columns(features, variant) @ stack["kernel"][s] + stack["bias"][s]
            right = np.argsort(-logits, axis=1) == labels[:, None]
            assert hits[variant.name][0][s] == right[:, 0].sum()
            assert hits[variant.name][1][s] == right[:, :5].sum()


def test_of_equal_logits_the_lower_class_comes_first(mesh):
    sweep = make_sweep(mesh)
    params = linear_sweep.make_init(sweep, 12)(jax.random.key(0)).params
    params = jax.tree.map(np.zeros_like, params)
    labels = np.arange(BATCH) % CLASSES  # 3 times 0 and 1, 2 times each of the others
    hits = linear_sweep.make_count(sweep, mesh)(params, np.zeros((BATCH, 12), np.float32), labels)
    assert hits["cls-2"][0][0] == 3 and hits["cls-2"][1][0] == 3 + 3 + 2 + 2 + 2


@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean"])
def test_a_variant_sees_the_features_of_its_name(workdir, kind):
    model, params = load(workdir)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    features = make_feature_fn(model, "all", 2)(params, images)
    for blocks in (1, 2):
        expected = make_feature_fn(model, kind, blocks)(params, images)
        found = Variant(kind, blocks).columns(features, (16, 16))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant("cls", 2), [2, 3, 4, 5]),
        (Variant("mean", 1), [9, 10, 11]),
        (Variant("cls+mean", 3), [0, 1, 2, 3, 4, 5, 9, 10, 11]),
    ],
)
def test_blocks_may_differ_in_width(variant, expected):
    features = np.arange(12.0)[None]  # class tokens of widths 2, 1, 3, and then their means
    np.testing.assert_array_equal(variant.columns(features, (2, 1, 3)), [expected])
