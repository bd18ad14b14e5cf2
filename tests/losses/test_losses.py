"""The losses against plain NumPy float64 written from the paper's equations, loop by loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ibot_jax.losses import centering, class_tokens, monitors, patches

B, G, L, N, K = 3, 2, 4, 5, 7
V = G + L


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def cross_entropy(p, student_logits, temp):
    return -(p * np.log(softmax(student_logits / temp))).sum()


def test_teacher_probs_center_then_sharpen(rng):
    logits, center = rng.normal(size=(B, G, K)), rng.normal(size=K)
    probs = centering.teacher_probs(jnp.array(logits), jnp.array(center), 0.07)
    for b in range(B):
        for g in range(G):
            np.testing.assert_allclose(
                probs[b, g], softmax((logits[b, g] - center) / 0.07), atol=1e-5
            )


def test_teacher_probs_have_no_gradient(rng):
    logits = jnp.array(rng.normal(size=(K,)))
    gradient = jax.grad(lambda x: centering.teacher_probs(x, jnp.zeros(K), 0.1)[0])(logits)
    np.testing.assert_array_equal(gradient, np.zeros(K))


@pytest.mark.parametrize("local_views", [0, L])
def test_class_loss_pairs_every_teacher_view_with_all_others(rng, local_views):
    views = G + local_views
    student = rng.normal(size=(B, views, K))
    targets = rng.dirichlet(np.ones(K), size=(B, G))
    terms = [
        np.mean([cross_entropy(targets[b, q], student[b, v], 0.1) for b in range(B)])
        for q in range(G)
        for v in range(views)
        if v != q
    ]
    loss = class_tokens.class_loss(jnp.array(student), jnp.array(targets), 0.1)
    np.testing.assert_allclose(loss.mean(), np.mean(terms), rtol=1e-5)


def test_patch_loss_averages_masked_tokens_within_a_view_then_over_views(rng):
    student = rng.normal(size=(B, G, N, K))
    targets = rng.dirichlet(np.ones(K), size=(B, G, N))
    masks = rng.random((B, G, N)) < 0.5
    masks[0, 0] = False  # a view without masks counts as 0
    total = 0.0
    for b in range(B):
        for g in range(G):
            tokens = [n for n in range(N) if masks[b, g, n]]
            terms = [cross_entropy(targets[b, g, n], student[b, g, n], 0.1) for n in tokens]
            total += sum(terms) / max(1, len(tokens))
    weights = patches.patch_weights(jnp.array(masks), jnp.float32).reshape(-1)
    loss = patches.patch_loss(
        jnp.array(student.reshape(-1, K)), jnp.array(targets.reshape(-1, K)), weights, 0.1
    )
    np.testing.assert_allclose(loss, total / (B * G), rtol=1e-5)


def test_patch_loss_without_any_mask_is_zero_and_so_is_its_gradient(rng):
    student = jnp.array(rng.normal(size=(B * G * N, K)))
    targets = jnp.array(rng.dirichlet(np.ones(K), size=B * G * N))
    weights = patches.patch_weights(jnp.zeros((B, G, N), bool), jnp.float32).reshape(-1)
    loss, gradient = jax.value_and_grad(patches.patch_loss)(student, targets, weights, 0.1)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_center_moves_by_one_minus_momentum():
    center = centering.update_center(jnp.array([1.0, 2.0]), jnp.array([3.0, -2.0]), 0.9)
    np.testing.assert_allclose(center, [1.2, 1.6], rtol=1e-6)


def test_entropy_of_known_distributions():
    probs = jnp.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(monitors.entropy(probs), [np.log(4), 0, np.log(2)], rtol=1e-6)


def test_entropy_of_logits_is_that_of_their_softmax(rng):
    logits = rng.normal(size=(B, V, K)) * 30
    expected = [[-sum(p * np.log(p) for p in softmax(row) if p) for row in rows] for rows in logits]
    np.testing.assert_allclose(
        monitors.entropy_of_logits(jnp.array(logits)), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("views", [1, 2, 3])
def test_views_kl_is_the_mean_over_all_pairs_of_views(rng, views):
    targets = rng.dirichlet(np.full(K, 0.3), size=(B, views))
    expected = [
        [scipy.stats.entropy(p, q) for p, q in itertools.permutations(image, 2)]
        for image in targets
    ]
    expected = np.mean(expected, axis=1) if views > 1 else np.zeros(B)
    np.testing.assert_allclose(
        monitors.views_kl(jnp.array(targets)), expected, rtol=1e-4, atol=1e-6
    )


def test_views_kl_of_certain_targets_is_finite():
    kl = monitors.views_kl(jnp.eye(K)[jnp.array([[0, 0], [0, 1]])])  # [2, G, K]
    assert kl[0] == 0
    np.testing.assert_allclose(kl[1], -np.log(np.finfo(np.float32).tiny), rtol=1e-6)


def test_same_choice_is_the_share_of_global_views_with_the_same_prototype(rng):
    student = rng.normal(size=(B, V, K))
    targets = rng.dirichlet(np.ones(K), size=(B, G))
    student[0, :G] = targets[0] * 5  # both views of this image agree
    expected = [
        np.mean([np.argmax(student[b, g]) == np.argmax(targets[b, g]) for g in range(G)])
        for b in range(B)
    ]
    assert expected[0] == 1 and min(expected) < 1
    np.testing.assert_allclose(
        monitors.same_choice(jnp.array(student), jnp.array(targets)), expected, rtol=1e-6
    )
