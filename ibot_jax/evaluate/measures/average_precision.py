"""How well a ranking finds what belongs to a query, as the retrieval benchmarks measure it."""

from collections.abc import Sequence

import numpy as np


def average_precision(ranks: np.ndarray, num_positives: int) -> float:
    """Returns the area under precision over recall, by trapezoids.

    The measure of the Holidays, Oxford and Paris benchmarks: from one positive to the next, recall
    rises by 1 / num_positives, and precision is the mean of what it was before and after the
    second one. (scikit-learn's `average_precision_score` takes the one after.)

    Args:
      ranks: [P] int, in order, where the positives stand in the ranking; the best place is 0.
      num_positives: how many there are, found or not.
    """
    ranks = np.asarray(ranks)
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / (2 * num_positives))


def precision_at(ranks: np.ndarray, k: int) -> float:
    """Returns the share of positives among the first k, or up to the last positive if that is less.

    Args:
      ranks: as of `average_precision`, at least one.
      k: how many are looked at.
    """
    places = np.asarray(ranks) + 1
    looked_at = min(int(places.max()), k)
    return float((places <= looked_at).sum() / looked_at)


def positive_ranks(
    ranking: np.ndarray, positives: Sequence[int], junk: Sequence[int] = ()
) -> np.ndarray:
    """Returns the places of the positives in a ranking from which junk was taken out.

    Args:
      ranking: [N] int, ids, best first.
      positives: ids.
      junk: ids that count neither for nor against.

    Returns:
      [P] int, in order, from 0 on; as many as there are positives in the ranking.
    """
    kept = ranking[~np.isin(ranking, junk)]
    return np.flatnonzero(np.isin(kept, positives))
