"""Measures of scores, against scikit-learn's and VOC's devkit by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_curve

from ibot_jax.evaluate.measures.classification import (
    mean_average_precision_11,
    mean_class_accuracy,
    top1,
)


def test_accuracies_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(60, 5)), rng.integers(0, 4, 60)
    found = scores.argmax(axis=1)
    assert top1(scores, labels) == pytest.approx(100 * accuracy_score(labels, found))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = 100 * balanced_accuracy_score(labels, found)
    assert mean_class_accuracy(scores, labels) == pytest.approx(expected)
    assert mean_class_accuracy(np.eye(2)[[0, 0, 0, 0]], np.array([0, 0, 0, 1])) == 50


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([1, 1, 0, 0], 1),
        ([0, 0, 0, 1], 1 / 4),
        ([1, 0, 1, 0], (6 * 1 + 5 * 2 / 3) / 11),  # up to a recall of 0.5, and beyond it
        ([0, 1, 0, 1], 1 / 2),
        ([-1, 1, 0, -1], 1),
    ],
)
def test_average_precision_at_eleven_recalls_by_hand(shown, expected):
    scores = np.array([[0.9], [0.8], [0.2], [0.1]])
    found = mean_average_precision_11(scores, np.array(shown)[:, None])
    assert found == pytest.approx(100 * expected)


def test_average_precision_at_eleven_recalls_is_that_of_a_curve_of_scikit_learn():
    """Ten positives, so that recalls are tenths; each class has images that do not count."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(80, 3))
    targets = np.stack([rng.permutation([1] * 10 + [0] * 60 + [-1] * 10) for _ in range(3)], 1)
    expected = []
    for own, shown in zip(scores.T, targets.T, strict=True):
        precision, recall, _ = precision_recall_curve(shown[shown >= 0], own[shown >= 0])
        precision, recall = precision[:-1], recall[:-1]  # without the one for nothing found
        tenths = np.arange(11) / 10
        expected.append(np.mean([precision[recall >= tenth - 1e-9].max() for tenth in tenths]))
    assert mean_average_precision_11(scores, targets) == pytest.approx(100 * np.mean(expected))


def test_a_class_that_no_image_shows_does_not_count():
    scores = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert mean_average_precision_11(scores, np.array([[1, 0], [0, -1]])) == 100
    with pytest.raises(ValueError, match="no image shows a class"):
        mean_average_precision_11(scores, np.zeros((2, 2), int))
