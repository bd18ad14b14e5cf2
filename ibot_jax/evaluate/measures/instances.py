"""How surely queries find the one thing that they show: exhibits of a museum, places of a city."""

import numpy as np


def global_average_precision(correct: np.ndarray, confidence: np.ndarray, shown: int) -> float:
    """Returns GAP, the micro average precision of one answer a query, in percent.

    Queries are ranked by confidence; for each that is answered right, the share of right answers up
    to it counts (Ypsilantis et al., arXiv 2202.01747, section 4).

    Args:
      correct: [Q] bool, whether the answer is right.
      confidence: [Q] float, of the answer; of equal ones the first comes first.
      shown: how many of the queries show something that could be found.
    """
    correct = np.asarray(correct)[np.argsort(-np.asarray(confidence), kind="stable")]
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    return 100 * float(precision[correct].sum() / shown)


def nearest_instances(
    cosines: np.ndarray, ids: np.ndarray, temperature: float, num_ids: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which thing each query shows, [Q], and how sure that is, [Q], by its neighbours.

    The answer is the nearest neighbour's; its confidence is the softmax of temperature * cosine,
    where a thing has the cosine of the nearest image of it, and those without a neighbour have 0,
    as in Met's own classifier.

    Args:
      cosines: [Q, k] of the neighbours, nearest first.
      ids: [Q, k] int, of the things that they show.
      temperature: that cosines are multiplied by.
      num_ids: how many things there are.
    """
    first = np.ones_like(cosines, bool)  # of its thing
    for place in range(1, cosines.shape[1]):
        first[:, place] = (ids[:, :place] != ids[:, place, None]).all(axis=1)
    # A cosine below 0 counts as 0, as there.
    logits = temperature * np.maximum(cosines, 0).astype(np.float64)
    top = logits[:, :1]
    others = num_ids - first.sum(axis=1)
    total = (np.exp(logits - top) * first).sum(axis=1) + others * np.exp(-top[:, 0])
    return ids[:, 0], 1 / total


def reciprocal_ranks(similarity: np.ndarray) -> np.ndarray:
    """Returns 1 / rank of the one counterpart of each query, [Q]: its average precision.

    Args:
      similarity: [Q, Q]; query i is looked for among all, and i is its counterpart. An equal one
        stands before it.
    """
    own = np.diagonal(similarity)[:, None]
    return 1 / (similarity >= own).sum(axis=1)
