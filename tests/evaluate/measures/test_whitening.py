"""Whitening against what it is for."""

import numpy as np

from ibot_jax.evaluate.measures.whitening import fit_whitening


def test_second_moments_become_the_identity():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    whiten = fit_whitening(features.astype(np.float32))
    np.testing.assert_allclose(whiten.mean, features.mean(axis=0), atol=1e-6)
    moments = features.T @ features / 500
    result = whiten.projection.T @ moments @ whiten.projection
    np.testing.assert_allclose(result, np.eye(6), atol=1e-4)
    np.testing.assert_allclose(whiten(features), (features - whiten.mean) @ whiten.projection)


def test_directions_that_do_not_occur_are_not_blown_up():
    """An eigenvalue counts as at least 1e-5 of the largest."""
    features = np.random.default_rng(0).normal(size=(50, 3)) * (10, 1, 0)
    projection = fit_whitening(features).projection
    largest = np.linalg.eigvalsh(features.T @ features / 50).max()
    np.testing.assert_allclose(np.abs(projection).max(), (1e-5 * largest) ** -0.5)
