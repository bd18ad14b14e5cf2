"""Penalties chosen on held-out images: the classifier that scikit-learn finds in the same way."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ibot_jax.evaluate.measures.classification import mean_average_precision_11, top1
from ibot_jax.evaluate.probes.chosen_regression import STRENGTHS, fit_chosen
from ibot_jax.parallel.mesh import make_mesh

LENGTH = 5.0  # of features, of which C is that of scikit-learn
CHOICES = (1e-3, 1e-2, 0.1, 1.0)


@pytest.fixture(scope="module")
def data():
    """Returns features [120, 6] of one length, classes, held-out images, and features to score."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 140)
    features = rng.normal(size=(3, 6))[labels] + 1.2 * rng.normal(size=(140, 6))
    features *= LENGTH / np.linalg.norm(features, axis=1, keepdims=True)
    features = features.astype(np.float32)
    return features[:120], labels[:120], np.arange(120) % 4 == 0, features[120:]


def theirs(features, labels, strength):
    fitted = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000)
    return fitted.fit(features.astype(np.float64), labels)


def test_classes_are_scored_as_by_scikit_learn(data):
    features, labels, held_out, queries = data
    choices = {
        strength: theirs(features[~held_out], labels[~held_out], strength).score(
            features[held_out], labels[held_out]
        )
        for strength in CHOICES
    }
    expected = max(choices, key=choices.get)
    assert len(set(choices.values())) > 1  # there is something to choose
    mesh = make_mesh(jax.devices()[:1])
    found, strength = fit_chosen(
        *data, num_classes=3, measure=top1, mesh=mesh, strengths=CHOICES[::-1]
    )
    assert strength == expected
    reference = theirs(features, labels, strength).predict_proba(queries)
    np.testing.assert_allclose(jax.nn.softmax(found), reference, atol=3e-3)


def test_each_of_several_classes_is_told_from_the_rest_as_by_scikit_learn(data):
    """Without the images that do not count for it."""
    features, labels, held_out, queries = data
    targets = (labels[:, None] == [0, 1]).astype(np.int8)
    targets[:10, 0] = -1
    mesh = make_mesh(jax.devices()[:1])
    found, strength = fit_chosen(
        *(features, targets, held_out, queries),
        **dict(num_classes=2, measure=mean_average_precision_11, mesh=mesh, strengths=(0.1,)),
    )
    assert strength == 0.1
    for column in range(2):
        counts = targets[:, column] >= 0
        # C is beside the mean over the images that count, here as for all of them.
        own = 0.1 * len(features) / counts.sum()
        reference = theirs(features[counts], targets[counts, column], own)
        np.testing.assert_allclose(
            found[:, column], reference.decision_function(queries), atol=0.02
        )


def test_the_published_choices():
    assert len(STRENGTHS) == 45
    np.testing.assert_allclose([STRENGTHS[0], STRENGTHS[44]], [1e-6, 1e5])
    np.testing.assert_allclose(np.diff(np.log10(STRENGTHS)), 0.25)
