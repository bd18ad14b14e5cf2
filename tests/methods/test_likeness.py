"""Likenesses of patches in a step: whose they are, from when on, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normalized, tiny_batch, tiny_config, tiny_plan

from ibot_jax.errors import UserError
from ibot_jax.methods.method import Network
from ibot_jax.methods.state import teacher_params
from ibot_jax.models.build import build_backbone
from ibot_jax.models.tokens import Tokens
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import to_global
from ibot_jax.runs import training

KEY = jax.random.key(0)
ONE = make_mesh(jax.devices()[:1])


def step_of(config, batch, gram=None, mesh=ONE, networks=None):
    """A step from weights of which student, teacher and gram teacher all differ."""
    plan = tiny_plan(config)
    state = training.make_init(config, plan, networks)(KEY)
    state = state.replace(params=jax.tree.map(lambda x: 1.5 * x + 0.01, state.params))
    frozen = {} if gram is None else {"gram": gram}
    step = jax.jit(training.make_train_step(config, plan, mesh, frozen=networks))
    return step(state, to_global(batch, mesh), KEY, frozen)


def earlier(config, size=0.02):
    """A gram teacher of the config's architecture."""
    params = teacher_params(training.make_init(config, tiny_plan(config))(jax.random.key(1)))
    return {"backbone": jax.tree.map(lambda x: x + size, params["backbone"])}


def batch_of(config):
    batch = tiny_batch(config)
    size = tuple(round(side * config.gram.scale) for side in config.data.global_size)
    rng = np.random.default_rng(1)
    views = rng.integers(0, 256, (config.batch_size, 2, *size, 3), dtype=np.uint8)
    return batch | {"gram_views": views}


def cosines(x):
    x = np.asarray(x, np.float64).reshape(-1, 16, x.shape[-1])
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return np.einsum("vnd,vmd->vnm", x, x)


def tokens(config, params, views, masks=None):
    backbone = build_backbone(config.model, config.data.global_size, "float32")
    views = normalized(config, views).reshape(-1, *views.shape[2:])
    masks = None if masks is None else masks.reshape(-1, *masks.shape[2:])
    return backbone.apply({"params": params["backbone"]}, views, masks).patches


def of_start(config):
    """Student and teacher as `step_of` has them."""
    state = training.make_init(config, tiny_plan(config))(KEY)
    return jax.tree.map(lambda x: 1.5 * x + 0.01, state.params), teacher_params(state)


@pytest.mark.slow
def test_the_student_is_compared_with_the_gram_teacher_which_sees_larger_views():
    config = tiny_config(gram__weight=3.0)
    batch, gram = batch_of(config), earlier(config)
    _, metrics = step_of(config, batch, gram)
    student, teacher = of_start(config)
    large = np.asarray(tokens(config, gram, batch["gram_views"]))
    assert large.shape == (16, 8, 8, 16)
    # Bicubic at half the size and half a pixel: the weights of four neighbours along each axis.
    weights = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
    matrix = np.zeros((4, 8))
    for row in range(4):
        for tap, weight in enumerate(weights, -1):
            matrix[row, np.clip(2 * row + tap, 0, 7)] += weight
    small = np.einsum("hH,wW,vHWd->vhwd", matrix, matrix, large)
    expected = [
        np.square(cosines(x) - cosines(small)).mean()
        for x in (
            tokens(config, student, batch["global_views"], batch["masks"]),
            tokens(config, teacher, batch["global_views"]),
        )
    ]
    np.testing.assert_allclose(metrics["gram_loss"], 3 * expected[0], rtol=1e-4)
    np.testing.assert_allclose(metrics["gram_drift"], expected[1], rtol=1e-4)
    losses = [metrics[name] for name in ("class_loss", "patch_loss", "gram_loss")]
    np.testing.assert_allclose(metrics["loss"], np.sum(losses), rtol=1e-5)


@pytest.mark.slow
def test_while_there_is_no_gram_teacher_a_step_is_as_without():
    plain, config = tiny_config(), tiny_config(gram__weight=3.0)
    batch = batch_of(config)
    state, metrics = step_of(config, batch)
    expected, others = step_of(plain, tiny_batch(plain))
    assert metrics.pop("gram_loss") == 0 and "gram_drift" not in metrics
    jax.tree.map(np.testing.assert_array_equal, (state.params, metrics), (expected.params, others))


def test_the_teacher_itself_may_be_the_gram_teacher():
    config = tiny_config(gram__weight=2.0, gram__teacher="current")
    batch = tiny_batch(config)
    _, metrics = step_of(config, batch)
    student, teacher = of_start(config)
    found, wanted = (
        cosines(tokens(config, student, batch["global_views"], batch["masks"])),
        cosines(tokens(config, teacher, batch["global_views"])),
    )
    np.testing.assert_allclose(metrics["gram_loss"], 2 * np.square(found - wanted).mean(), 1e-4)
    assert "gram_drift" not in metrics


@pytest.mark.parametrize("tokens_used", ["masked", "unmasked"])
def test_of_masked_patches_or_of_the_others_alone(tokens_used):
    config = tiny_config(
        gram__weight=1.0, gram__teacher="current", gram__level="batch", gram__tokens=tokens_used
    )
    batch = tiny_batch(config)
    _, metrics = step_of(config, batch)
    student, teacher = of_start(config)
    used = batch["masks"].ravel() == (tokens_used == "masked")
    found, wanted = (
        np.asarray(x, np.float64).reshape(-1, 16)[used]
        for x in (
            tokens(config, student, batch["global_views"], batch["masks"]),
            tokens(config, teacher, batch["global_views"]),
        )
    )
    found, wanted = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found, wanted))
    expected = np.square(found @ found.T - wanted @ wanted.T).mean()
    np.testing.assert_allclose(metrics["gram_loss"], expected, rtol=1e-4)


def test_patch_kernels_are_aligned_with_the_teachers():
    config = tiny_config(loss__kernel_weight=0.5)
    batch = tiny_batch(config)
    _, metrics = step_of(config, batch)
    student, teacher = of_start(config)
    centre, losses = np.eye(16) - 1 / 16, []
    for one, other in zip(
        tokens(config, student, batch["global_views"], batch["masks"]),
        tokens(config, teacher, batch["global_views"]),
        strict=True,
    ):
        one, other = (np.asarray(x, np.float64).reshape(16, 16) for x in (one, other))
        one, other = (centre @ x @ x.T @ centre for x in (one, other))
        losses.append(1 - (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
    np.testing.assert_allclose(metrics["kernel_loss"], 0.5 * np.mean(losses), rtol=1e-4)


@pytest.mark.slow
def test_it_is_the_same_on_any_mesh():
    config = tiny_config(gram__weight=3.0, loss__kernel_weight=0.5, dtype="float64")
    batch = batch_of(config)
    with jax.enable_x64(True):
        gram = earlier(config)
        of_mesh = [
            step_of(config, batch, gram, mesh) for mesh in (ONE, make_mesh(fsdp=2, tensor=2))
        ]
    (one, metrics), (other, others) = of_mesh
    for name in ("loss", "gram_loss", "kernel_loss", "gram_drift"):
        np.testing.assert_allclose(metrics[name], others[name], rtol=1e-10)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)
    jax.tree.map(close, one.params, other.params)


def test_a_gram_teacher_of_another_patch_size_is_refused():
    config, other = tiny_config(gram__weight=1.0), tiny_config(model__patch_size=8)
    network = Network(build_backbone(other.model, (16, 16), "float32"), None)
    with pytest.raises(UserError, match="frozen.gram has patches of 8 x 8 .* student of 4 x 4"):
        training.make_method(config, tiny_plan(config), frozen={"gram": network})


def test_a_wider_one_is_not():
    config = tiny_config(gram__weight=1.0)
    other = tiny_config(model__width=24)
    network = Network(build_backbone(other.model, (16, 16), "float32"), None)
    _, metrics = step_of(config, batch_of(config), earlier(other), networks={"gram": network})
    assert metrics["gram_loss"] > 0


@pytest.mark.parametrize("key", ["gram.weight", "loss.kernel_weight"])
def test_a_method_without_patches_refuses_them(key):
    config = tiny_config(method="dino", **{key.replace(".", "__"): 0.5})
    with pytest.raises(UserError, match=f'{key}=0.5 is of patches, which method="dino" has not'):
        training.make_method(config, tiny_plan(config))


def test_no_gradient_flows_into_what_is_compared_with():
    config = tiny_config(gram__weight=1.0, loss__kernel_weight=1.0)
    method = training.make_method(config, tiny_plan(config))
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16)), jnp.float32)

    def loss(targets, sequence):
        rows = {"gram": targets, "teacher": targets, "kernel": targets}
        student = Tokens(jnp.pad(sequence, [(0, 0), (1, 0), (0, 0)]), (4, 4))
        terms = method.likeness.terms(rows, student, jnp.zeros((1, 2, 4, 4), bool))
        return terms["gram_loss"] + terms["kernel_loss"]

    of_targets, of_student = jax.grad(loss, (0, 1))(patches, 2 * patches + patches[::-1])
    assert not np.any(of_targets) and np.any(of_student)
