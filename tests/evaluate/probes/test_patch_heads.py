"""Heads on patch tokens against NumPy."""

import functools

import jax
import numpy as np
import pytest
from scipy.ndimage import zoom
from scipy.special import log_softmax, softmax

from ibot_jax.evaluate.probes import patch_heads
from ibot_jax.evaluate.probes.patch_heads import Bank, Linear


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_pixels_are_counted_patch_by_patch(rng):
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, 6, 9))
    counts = patch_heads.count_pixels(labels, (2, 3), 3).reshape(2, 6, 3)
    for image in range(2):
        for patch in range(6):
            row, column = 3 * (patch // 3), 3 * (patch % 3)
            pixels = labels[image, row : row + 3, column : column + 3]
            expected = [(pixels == c).sum() for c in range(3)]
            np.testing.assert_array_equal(counts[image, patch], expected)


def test_the_loss_is_the_mean_over_known_pixels(rng):
    head = Linear(rng.normal(size=(5, 3)), rng.normal(size=3))
    tokens = rng.normal(size=(2, 4, 5))
    counts = rng.integers(0, 4, (2, 4, 3)).astype(float)
    log_probs = log_softmax(tokens @ head.kernel + head.bias, axis=-1)
    expected = -(counts * log_probs).sum() / counts.sum()
    assert patch_heads.linear_loss(head, tokens, counts) == pytest.approx(expected, rel=1e-5)
    assert patch_heads.linear_loss(head, tokens, np.zeros_like(counts)) == 0


@pytest.mark.parametrize("max_entries", [2**27, 2 * 30 * 3])
def test_votes_are_those_of_the_nearest_by_cosine(monkeypatch, rng, max_entries):
    """In one chunk, and in chunks of 3 queries of each image."""
    monkeypatch.setattr(patch_heads, "_MAX_ENTRIES", max_entries)
    features = rng.normal(size=(30, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    bank = Bank(features.astype(np.float32), rng.dirichlet(np.ones(4), 30).astype(np.float32))
    tokens = 3 * rng.normal(size=(2, 7, 6)).astype(np.float32)
    votes = functools.partial(patch_heads.knn_votes, k=5, temperature=0.2)
    found = jax.jit(votes)(bank, tokens[:, None]).squeeze(1)
    cosine = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) @ features.T
    nearest = np.argsort(-cosine, axis=-1)[..., :5]
    weights = softmax(np.take_along_axis(cosine, nearest, -1) / 0.2, axis=-1)
    expected = np.einsum("bqk,bqkc->bqc", weights, bank.shares[nearest])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_are_decided_by_scores_between_the_patches(rng):
    scores = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    found = patch_heads.decide(scores, 12)
    assert found.shape == (2, 12, 12) and found.dtype == np.uint8
    zoomed = zoom(scores, (1, 4, 4, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_array_equal(found, zoomed.argmax(-1))
