"""Logistic regression reaches the optimum that scikit-learn finds."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ibot_jax.evaluate.probes import softmax_regression
from ibot_jax.evaluate.probes.softmax_regression import fit, predict
from ibot_jax.parallel.mesh import make_mesh

NUM_CLASSES = 4


@pytest.fixture(scope="module")
def data():
    """Returns 150 features around four overlapping means, far from the origin, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, 150)
    features = rng.normal(size=(NUM_CLASSES, 6))[labels] + rng.normal(size=(150, 6)) + 3
    return features.astype(np.float32), labels


@pytest.fixture(params=[1, 8])
def mesh(request):
    return make_mesh(jax.devices()[: request.param])


def test_the_optimum_is_that_of_scikit_learn(data, mesh, monkeypatch):
    """Of each penalty; on one device and eight, in uneven chunks of 16 images."""
    monkeypatch.setattr(softmax_regression, "_MAX_ENTRIES", 16 * NUM_CLASSES)
    features, labels = data
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    l2s = (1e-4, 1e-2)
    fits = list(fit(features, labels, l2s=l2s, num_classes=NUM_CLASSES, max_steps=500, mesh=mesh))
    assert [fitted.l2 for fitted in fits] == [1e-2, 1e-4]
    for fitted in fits:
        assert fitted.steps < 500 and fitted.gradient < 1e-5
        theirs = LogisticRegression(C=1 / (fitted.l2 * len(labels)), tol=1e-8, max_iter=10_000)
        theirs.fit(unit.astype(np.float64), labels)
        scale = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(fitted.kernel.T, theirs.coef_, atol=3e-3 * scale)
        probabilities = jax.nn.softmax(unit @ fitted.kernel + fitted.bias)
        np.testing.assert_allclose(probabilities, theirs.predict_proba(unit), atol=2e-3)


def test_the_optimum_is_the_same_where_a_run_is_in_float64(data):
    features, labels = data
    settings = dict(l2s=(1e-2,), num_classes=NUM_CLASSES, max_steps=500, mesh=make_mesh())
    (expected,) = fit(features, labels, **settings)
    jax.config.update("jax_enable_x64", True)
    try:
        (fitted,) = fit(features, labels, **settings)
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(fitted.kernel, expected.kernel, atol=1e-3)


def test_the_ranking_is_that_of_the_logits(data, monkeypatch):
    monkeypatch.setattr(softmax_regression, "_MAX_ENTRIES", 16 * NUM_CLASSES)
    features, labels = data
    (fitted,) = fit(features, labels, l2s=(1e-2,), num_classes=4, max_steps=500, mesh=make_mesh())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.argsort(-(unit @ np.asarray(fitted.kernel) + np.asarray(fitted.bias)), axis=1)
    np.testing.assert_array_equal(predict(fitted, features), expected)
    np.testing.assert_array_equal(predict(fitted, features, ranked=2), expected[:, :2])
