"""Weighted k-nearest-neighbour classification of features, exact, as the original measures it.

Each of a query's k nearest training features, by cosine similarity s, votes for its class with
weight exp(s / T); classes are ranked by their votes, and of equal ones the lower comes first. A
class for which none of the k votes has no place in the ranking. (In the original it has one, behind
the others, so that chance adds to top-5 wherever the k are of fewer than five classes.)
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ibot_jax.evaluate.features.sharded import joined, shard
from ibot_jax.parallel.layouts import num_shards, replicated

# Largest float32 array that a chunk of queries may need on a device: 2**27 entries are 512 MiB.
_MAX_ENTRIES = 2**27
_RANKED = 5  # classes kept of the ranking, for top-5

Ranked = dict[tuple[int, float], np.ndarray]


def weighted_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    num_classes: int,
    mesh: Mesh,
    left_out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Ranked:
    """Ranks the classes of every query by the weighted votes of its nearest neighbours.

    The training features are spread over the devices; each finds the nearest of its own, of which
    the nearest of all are chosen. Queries go through in chunks, so that memory is bounded
    whatever their number. Features may be mapped from disk: none is copied as a whole.

    Args:
      train_features: [M, D] float; need not be normalised. The same on all processes.
      train_labels: [M] int, from 0 to num_classes - 1; -1 for images that do not vote.
      test_features: [Q, D] float; need not be normalised. The same on all processes.
      ks: how many neighbours vote; one search serves all.
      temperatures: T; one search serves all.
      num_classes: C.
      mesh: the devices.
      left_out: [M] and [Q] int, numbers from 0 on by which a training feature is left out for the
        queries of the same number; -1 for those that nothing is left out for.

    Returns:
      For each (k, T), the best min(5, C) classes of every query, best first and -1 behind the last
      that has a vote, [Q, min(5, C)] int32, on all processes.

    Raises:
      ValueError: if a k is not between 1 and the number of features that vote for every query.
    """
    num_train = len(train_features)
    voters = np.count_nonzero(np.asarray(train_labels) >= 0)
    if left_out is not None:
        voters -= np.bincount(left_out[0][left_out[0] >= 0]).max(initial=0)
    if not ks or min(ks) < 1 or max(ks) > voters:
        raise ValueError(f"ks={ks} are not between 1 and the {voters} training features that vote")
    rows, chunk = sizes(num_train, max(ks), num_classes, mesh)
    bank = _to_unit(shard(train_features, mesh, rows))
    labels = shard(np.asarray(train_labels, np.int32), mesh, rows, fill=-1)
    if left_out is not None:
        numbers = shard(np.asarray(left_out[0], np.int32), mesh, rows, fill=-1)
    chunk = min(chunk, len(test_features))
    rank = make_rank(mesh, tuple(ks), tuple(temperatures), num_classes)
    everywhere = replicated(mesh)

    ranked = {(k, t): [] for k in ks for t in temperatures}
    for start, number, queries in chunks(test_features, chunk):
        queries = jax.device_put(queries, everywhere)
        same = None
        if left_out is not None:
            own = np.asarray(left_out[1][start : start + number], np.int32)
            own = np.pad(own, (0, len(queries) - number), constant_values=-1)
            same = numbers, jax.device_put(own, everywhere)
        best = rank(bank, labels, queries, same)
        for setting, classes in best.items():
            ranked[setting].append(np.asarray(classes)[:number])
    return {setting: np.concatenate(parts) for setting, parts in ranked.items()}


def nearest(
    features: np.ndarray, queries: np.ndarray, *, k: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k features that are nearest to every query.

    Args:
      features: [M, D] float, of any length; the same on all processes.
      queries: [Q, D] float, likewise.
      k: how many are found, at most M.
      mesh: the devices, over which the features are spread.

    Returns:
      Their cosines, [Q, k] float32, largest first, and their rows in `features`, [Q, k] int32.

    Raises:
      ValueError: if k is not between 1 and M.
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k={k} is not between 1 and the {len(features)} features")
    rows, chunk = sizes(len(features), k, 1, mesh)
    bank = _to_unit(shard(features, mesh, rows))
    numbers = shard(np.arange(len(features), dtype=np.int32), mesh, rows, fill=-1)
    find, parts = _make_nearest(mesh, k), []
    for _, number, part in chunks(queries, min(chunk, len(queries))):
        part = jax.device_put(part, replicated(mesh))
        parts.append([np.asarray(x)[:number] for x in find(bank, numbers, part)])
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def votes(
    cosines: np.ndarray, targets: np.ndarray, *, temperature: float, num_classes: int
) -> np.ndarray:
    """Returns the share of the votes of its neighbours that each class of a query has, [Q, C].

    Args:
      cosines: [Q, k] float, of the neighbours, which vote with weight exp(cosine / temperature).
      targets: [Q, k] int, the neighbours' classes; or [Q, k, C], 1 for the classes that they show.
      temperature: of the votes.
      num_classes: C.
    """
    weights = np.exp((cosines - cosines[:, :1]) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    if targets.ndim == 3:
        return np.einsum("qk,qkc->qc", weights, targets == 1)
    shares = np.zeros((len(cosines), num_classes), np.float32)
    np.add.at(shares, (np.arange(len(cosines))[:, None], targets), weights)
    return shares


def sizes(num_train: int, most: int, num_classes: int, mesh: Mesh) -> tuple[int, int]:
    """Returns how many training features a device holds, and how many queries it sees at a time.

    Args:
      num_train: training features, M.
      most: the largest k.
      num_classes: C.
      mesh: the devices.
    """
    parts = num_shards(mesh)
    rows = max(-(-num_train // parts), most)
    return rows, max(_MAX_ENTRIES // max(rows, most * parts, most * num_classes), 1)


def chunks(features: np.ndarray, size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields parts [size, D] of features, all of one shape, the last one filled up with zeros.

    Yields:
      Where a part begins, how many of its rows are features, and the part.
    """
    for start in range(0, len(features), size):
        part = np.asarray(features[start : start + size])
        missing = size - len(part)  # one shape for every part: one compilation
        yield start, len(part), np.pad(part, ((0, missing), (0, 0)))


def accuracy(ranked: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns top-1 and top-5 accuracy in percent.

    Args:
      ranked: [Q, R] the classes of every query, best first, -1 for none; top-5 counts all R.
      labels: [Q] the true classes; images of label -1 have none, and are left out.
    """
    labels = np.asarray(labels)
    hits = (ranked == labels[:, None])[labels >= 0]
    return 100 * float(hits[:, 0].mean()), 100 * float(hits.any(axis=1).mean())


def unit(features: jax.Array) -> jax.Array:
    """Scales rows [..., D] to length 1 (rows of zeros stay)."""
    norms = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norms, jnp.finfo(features.dtype).tiny)


_to_unit = jax.jit(unit, donate_argnums=0)  # in place: features may fill half of the memory


@functools.lru_cache(maxsize=8)
def make_rank(
    mesh: Mesh,
    ks: tuple[int, ...],
    temperatures: tuple[float, ...],
    num_classes: int,
):
    """Returns the function of (bank, labels, queries [q, D]) to {(k, T): [q, min(5, C)] int32}.

    By option a pair follows, the numbers of the bank's rows and of the queries, by which a row is
    left out for the queries of its number.
    """
    search = _make_search(mesh, max(ks))

    def rank(bank, labels, queries, same=None):
        nearest, classes = search(bank, labels, queries, same)
        own = classes[:, :, None] == jnp.arange(num_classes)  # [q, k, C]
        ranked = {}
        for temperature in temperatures:
            # Relative to the nearest, which scales all votes of a query alike. Votes stay
            # logarithms, of which a low temperature makes no zeros: -inf is no vote at all.
            weights = (nearest - nearest[:, :1]) / temperature
            for k in ks:
                votes = jax.nn.logsumexp(
                    jnp.where(own[:, :k], weights[:, :k, None], -jnp.inf), axis=1
                )
                votes, best = jax.lax.top_k(votes, min(_RANKED, num_classes))
                ranked[k, temperature] = jnp.where(votes == -jnp.inf, -1, best)
        return ranked

    return jax.jit(rank, out_shardings=replicated(mesh))


@functools.lru_cache(maxsize=8)
def _make_nearest(mesh: Mesh, k: int):
    return jax.jit(_make_search(mesh, k), out_shardings=replicated(mesh))


def _make_search(mesh: Mesh, k: int):
    """Returns the function of (bank, labels, queries [q, D]) to cosines and labels, [q, k].

    Rows of label -1 are not found. By option a pair follows, as of `make_rank`.
    """

    def nearest_of_own(shared, own):
        (queries, number), (bank, labels, numbers) = shared, own
        # "highest": the default would run in bfloat16 on a TPU and in TF32 on a GPU.
        similarity = jnp.matmul(queries, bank.T, precision="highest")  # [q, rows]
        votes = labels >= 0
        if number is not None:
            votes = votes & ((number[:, None] != numbers) | (number[:, None] < 0))
        similarity = jnp.where(votes, similarity, -jnp.inf)
        nearest, index = jax.lax.top_k(similarity, k)  # [q, k]
        return nearest, labels[index]

    def search(bank, labels, queries, same=None):
        numbers, number = same or (None, None)
        nearest, found = joined(nearest_of_own, mesh)(
            (unit(queries), number), (bank, labels, numbers)
        )
        # Device by device, so of equally near ones the first of all comes first.
        nearest, index = jax.lax.top_k(nearest, k)
        return nearest, jnp.take_along_axis(found, index, axis=1)

    return search
