"""Measures of instances, against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from ibot_jax.evaluate.measures.instances import (
    global_average_precision,
    nearest_instances,
    reciprocal_ranks,
)


def test_gap_is_the_area_that_scikit_learn_finds():
    """Which divides by the right answers, GAP by all queries that could have one."""
    rng = np.random.default_rng(0)
    correct, confidence = rng.random(50) < 0.4, rng.random(50)
    expected = average_precision_score(correct, confidence) * correct.sum() / 35
    assert global_average_precision(correct, confidence, 35) == pytest.approx(100 * expected)


def test_gap_by_hand():
    correct = np.array([True, False, True])
    assert global_average_precision(correct, np.array([0.9, 0.5, 0.4]), 4) == pytest.approx(
        100 * (1 + 2 / 3) / 4
    )
    assert global_average_precision(np.zeros(3, bool), np.arange(3), 2) == 0


@pytest.mark.parametrize("temperature", [0.1, 10.0, 500.0])
def test_confidence_is_a_softmax_over_all_things(temperature):
    rng = np.random.default_rng(1)
    cosines = -np.sort(-rng.uniform(-0.2, 1, (20, 6)), axis=1)
    ids = rng.integers(10, 14, (20, 6))
    answers, confidence = nearest_instances(cosines, ids, temperature, num_ids=9)
    for own, things, answer, sure in zip(cosines, ids, answers, confidence, strict=True):
        of_thing = np.zeros(9)  # of the five that no neighbour shows, too
        for cosine, thing in zip(own, things, strict=True):
            of_thing[thing - 10] = max(of_thing[thing - 10], cosine)
        shares = np.exp(temperature * (of_thing - of_thing.max()))
        assert answer == things[0]
        assert sure == pytest.approx(shares.max() / shares.sum())


def test_ranks_are_those_of_scikit_learn():
    similarity = np.random.default_rng(2).normal(size=(12, 12)).round(1)  # some are equal
    found = reciprocal_ranks(similarity)
    expected = label_ranking_average_precision_score(np.eye(12), similarity)
    assert found.mean() == pytest.approx(expected)
    np.testing.assert_array_equal(reciprocal_ranks(np.array([[0.5, 0.5], [0.1, 0.9]])), [0.5, 1])
