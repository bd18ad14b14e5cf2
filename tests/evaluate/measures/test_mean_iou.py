"""Mean IoU by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from ibot_jax.evaluate.measures import mean_iou


def test_scores_by_hand():
    """Class 2 occurs nowhere; class 3 only in the prediction, wrongly; 255 does not count."""
    truth = np.array([[0, 0, 0, 1], [1, 255, 0, 1]])
    prediction = np.array([[0, 0, 1, 1], [1, 0, 0, 3]])
    counts = mean_iou.count(prediction, truth, 4)
    assert counts.sum() == 7 and counts[0].tolist() == [3, 1, 0, 0]
    found = mean_iou.scores(counts)
    assert found["miou"] == pytest.approx(100 * (3 / 4 + 2 / 4 + 0) / 3)
    assert found["mean_accuracy"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert found["pixel_accuracy"] == pytest.approx(100 * 5 / 7)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 6, (2, 20, 30))
    counts = mean_iou.count(prediction, truth, 6)
    expected = metrics.confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(6))
    np.testing.assert_array_equal(counts, expected)
    iou = metrics.jaccard_score(truth.ravel(), prediction.ravel(), average="macro")
    found = mean_iou.scores(counts)
    assert found["miou"] == pytest.approx(100 * iou)
    balanced = metrics.balanced_accuracy_score(truth.ravel(), prediction.ravel())
    assert found["mean_accuracy"] == pytest.approx(100 * balanced)


def test_scores_are_the_recorded_ones(dense_evaluation):
    """Of three images, two classes of which are in no label, and one of these in no prediction."""
    recorded = {name: dense_evaluation[f"seg/{name}"] for name in ("labels", "predictions")}
    counts = sum(
        mean_iou.count(prediction, label - np.uint8(1), 7)  # 0 is void, as in ADE20K
        for prediction, label in zip(recorded["predictions"], recorded["labels"], strict=True)
    )
    intersection, union, predicted, labelled = dense_evaluation["seg/areas"].sum(axis=0)
    right, true, found = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    np.testing.assert_array_equal(right, intersection)
    np.testing.assert_array_equal(true + found - right, union)
    np.testing.assert_array_equal(found, predicted)
    np.testing.assert_array_equal(true, labelled)
    for name, value in mean_iou.scores(counts).items():
        assert value / 100 == pytest.approx(dense_evaluation[f"seg/{name}"], rel=1e-12)
