"""k-NN: the original's numbers to the digit, and properties by hand."""

import os
import pathlib

import numpy as np
import pytest

from ibot_jax.evaluate import knn

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = pathlib.Path(os.environ.get("IBOT_REFERENCE_DIR", ROOT / "../shared/reference"))


@pytest.mark.parametrize("max_entries", [2**27, 2000 * 64])
def test_accuracies_are_those_of_the_original(monkeypatch, max_entries):
    """At every k from one search, in one chunk of queries as in chunks of 64 (the last: 52)."""
    path = REFERENCE / "knn.npz"
    if not path.exists():
        pytest.skip(f"no reference data at {path}; set IBOT_REFERENCE_DIR")
    data = np.load(path)
    monkeypatch.setattr(knn, "_MAX_ENTRIES", max_entries)
    ks = (1, 10, 20, 100)
    ranked = knn.weighted_knn(
        data["train"],
        data["train_labels"],
        data["test"],
        k=ks,
        temperature=0.07,
        num_classes=10,
    )
    for k in ks:
        assert ranked[k].shape == (500, 5)
        measured = knn.accuracy(ranked[k], data["test_labels"])
        np.testing.assert_allclose(measured, data[f"k{k}"], atol=1e-9, err_msg=f"k = {k}")


def test_near_neighbours_outvote_many_far_ones():
    """One neighbour at similarity 1 against three at 0: exp(1 / 0.5) = 7.4 > 3 votes."""
    train = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    labels = np.array([1, 0, 0, 0])
    query = np.array([[5, 0]], np.float32)  # length does not matter, only direction
    sharp = knn.weighted_knn(train, labels, query, k=4, temperature=0.5, num_classes=3)
    flat = knn.weighted_knn(train, labels, query, k=4, temperature=2.0, num_classes=3)
    np.testing.assert_array_equal(sharp[4], [[1, 0, 2]])
    np.testing.assert_array_equal(flat[4], [[0, 1, 2]])  # exp(1 / 2) = 1.6 < 3


def test_a_low_temperature_does_not_overflow():
    """exp(1 / 0.005) is beyond float32; the ranking is that of the single nearest neighbour."""
    train = np.array([[1, 0], [0.99, 0.1], [0.98, 0.2]], np.float32)
    query = np.array([[1, 0.02]], np.float32)
    ranked = knn.weighted_knn(
        train, np.array([2, 0, 0]), query, k=3, temperature=0.005, num_classes=3
    )
    assert ranked[3][0, 0] == 2


def test_more_neighbours_than_images_is_an_error():
    with pytest.raises(ValueError, match=r"k=3 .* 2"):
        knn.weighted_knn(
            np.eye(2), np.array([0, 1]), np.eye(2), k=3, temperature=0.07, num_classes=2
        )
