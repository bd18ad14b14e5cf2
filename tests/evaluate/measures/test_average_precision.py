"""Average precision and precision at k, against values by hand and a plain loop."""

import numpy as np
import pytest

from ibot_jax.evaluate.measures.average_precision import (
    average_precision,
    positive_ranks,
    precision_at,
)


@pytest.mark.parametrize(
    ("ranks", "num_positives", "expected"),
    [
        ([0], 1, 1),
        ([0, 1, 2], 3, 1),
        ([1], 1, (0 + 1 / 2) / 2),  # precision 0 before, 1/2 after
        ([0, 2], 2, ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2),
        ([0], 2, 0.5),  # the other one was not retrieved
        ([], 3, 0),
    ],
)
def test_average_precision_by_hand(ranks, num_positives, expected):
    assert average_precision(np.array(ranks, int), num_positives) == pytest.approx(expected)


def test_average_precision_is_the_area_under_the_broken_line():
    """Against trapezoids of precision over recall, with the step in front of a positive in it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        hits = rng.random(40) < 0.3
        total = hits.sum() + 2
        area, recall, precision = 0.0, 0.0, 1.0
        for place, hit in enumerate(hits):
            if hit:
                higher = hits[: place + 1].sum() / (place + 1)
                area += (precision + higher) / 2 * (hits[: place + 1].sum() / total - recall)
                recall = hits[: place + 1].sum() / total
            precision = hits[: place + 1].sum() / (place + 1)
        assert average_precision(np.flatnonzero(hits), total) == pytest.approx(area)


@pytest.mark.parametrize(
    ("ranks", "k", "expected"),
    [
        ([0, 2], 1, 1),
        ([1, 2], 1, 0),
        ([0, 2, 7], 5, 2 / 5),
        ([0, 2], 5, 2 / 3),  # no more to be found after the third
        ([0], 10, 1),
    ],
)
def test_precision_at_k_looks_no_further_than_the_last_positive(ranks, k, expected):
    assert precision_at(np.array(ranks), k) == pytest.approx(expected)


def test_junk_is_taken_out_before_places_are_counted():
    ranking = np.array([7, 3, 5, 1, 0, 2])
    np.testing.assert_array_equal(positive_ranks(ranking, [3, 0]), [1, 4])
    np.testing.assert_array_equal(positive_ranks(ranking, [3, 0], junk=[7, 1, 2]), [0, 2])
