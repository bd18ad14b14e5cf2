"""Monitors of collapse: closed forms, and NumPy from the definitions."""

import numpy as np
import pytest

from ibot_jax.evaluate.measures import monitors


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_features_that_fill_r_dimensions_evenly_have_rank_r(rng, rank):
    features = orthonormal(rng, 60, rank) @ orthonormal(rng, 12, rank).T
    assert monitors.feature_rank(features.astype(np.float32)) == pytest.approx(rank, rel=1e-4)


def test_the_same_feature_for_every_image_has_rank_one(rng):
    features = np.tile(rng.normal(size=(1, 24)), (5000, 1)).astype(np.float32)
    assert monitors.feature_rank(features) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(30, 8), (8, 30)])
def test_rank_is_the_exponential_of_the_entropy_of_the_singular_values(
    monkeypatch, rng, rows, columns
):
    """Also summed in blocks, and with fewer images than dimensions."""
    monkeypatch.setattr(monitors, "_BLOCK", 7)
    features = rng.normal(size=(rows, columns)) * np.linspace(0.1, 3, columns) + 1
    shares = np.linalg.svd(features, compute_uv=False)
    shares /= shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert monitors.feature_rank(features.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_the_share_in_use_counts_each_prototype_once():
    assert monitors.share_in_use(np.array([7, 3, 3, 0, 7, 7]), 12) == 3 / 12


def test_mutual_information_of_clusters_that_tell_all_or_nothing():
    labels = np.repeat([0, 1, 2], 8)
    tell_all = np.array([9, 2, 5])[labels]
    tell_nothing = np.tile([0, 1], 12)
    assert monitors.normalized_mutual_information(tell_all, labels) == pytest.approx(100)
    assert monitors.normalized_mutual_information(tell_nothing, labels) == pytest.approx(
        0, abs=1e-7
    )
    assert monitors.normalized_mutual_information(np.zeros(24, int), labels) == 0


def test_mutual_information_is_over_the_mean_of_both_entropies(rng):
    labels, clusters = rng.integers(0, 3, 200), rng.integers(0, 5, 200)
    clusters = np.where(rng.random(200) < 0.5, labels, clusters)
    joint = np.histogram2d(clusters, labels, bins=(5, 3))[0] / 200

    def entropy(p):
        return -(p[p > 0] * np.log(p[p > 0])).sum()

    parts = entropy(joint.sum(axis=1)), entropy(joint.sum(axis=0))
    expected = 100 * (sum(parts) - entropy(joint)) / np.mean(parts)
    found = monitors.normalized_mutual_information(clusters, labels)
    assert found == pytest.approx(expected, rel=1e-9)
