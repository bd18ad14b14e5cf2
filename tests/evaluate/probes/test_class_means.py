"""Nearest class mean finds the classes that scikit-learn's nearest centroid finds."""

import numpy as np
from sklearn.neighbors import NearestCentroid

from ibot_jax.evaluate.probes.class_means import nearest_mean


def test_the_nearest_mean_is_that_of_scikit_learn():
    """Classes of different spread, so that the lengths of the means matter."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    spread = np.array([0.2, 1, 2, 3])[labels][:, None]
    centers = rng.normal(size=(4, 6))[labels]
    features = rng.uniform(1, 9, (40, 1)) * (centers + spread * rng.normal(size=(40, 6)))
    queries = rng.normal(size=(200, 6))
    found = nearest_mean(features, labels, queries, 4)
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, queries)]
    np.testing.assert_array_equal(found, NearestCentroid().fit(units[0], labels).predict(units[1]))
    by_cosine = nearest_mean(features, labels, queries, 4) == np.argmax(
        units[1] @ np.stack([units[0][labels == c].mean(0) for c in range(4)]).T, axis=1
    )
    assert not by_cosine.all()
