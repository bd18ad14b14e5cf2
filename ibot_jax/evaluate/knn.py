"""Weighted k-nearest-neighbour classification of features, exact, as the original measures it.

Each of a query's k nearest training features, by cosine similarity s, votes for its class with
weight exp(s / T); classes are ranked by their votes, and of equal ones the lower comes first.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Largest float32 array that a chunk of queries may need: 2**27 entries are 512 MiB.
_MAX_ENTRIES = 2**27
_RANKED = 5  # classes kept of the ranking, for top-5


def weighted_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int | tuple[int, ...],
    temperature: float,
    num_classes: int,
) -> dict[int, np.ndarray]:
    """Ranks the classes of every query by the weighted votes of its nearest neighbours.

    Queries go through the device in chunks, so that memory is bounded whatever their number.

    Args:
      train_features: [M, D] float; need not be normalised.
      train_labels: [M] int, from 0 to num_classes - 1.
      test_features: [Q, D] float; need not be normalised.
      k: how many neighbours vote; one search serves several.
      temperature: T.
      num_classes: C.

    Returns:
      For each k, the best min(5, C) classes of every query, best first, [Q, min(5, C)] int32.

    Raises:
      ValueError: if a k is not between 1 and M.
    """
    ks = (k,) if isinstance(k, int) else tuple(k)
    num_train = len(train_features)
    if not ks or min(ks) < 1 or max(ks) > num_train:
        raise ValueError(f"k={k} is not between 1 and the number of training features {num_train}")
    chunk = _MAX_ENTRIES // max(num_train, max(ks) * num_classes)
    chunk = min(max(chunk, 1), len(test_features))
    train = _unit(train_features)
    labels = jnp.asarray(train_labels, jnp.int32)

    ranked = {n: [] for n in ks}
    for start in range(0, len(test_features), chunk):
        queries = np.asarray(test_features[start : start + chunk])
        missing = chunk - len(queries)  # one shape for every chunk: one compilation
        queries = _unit(np.pad(queries, ((0, missing), (0, 0))))
        best = _rank(train, labels, queries, temperature, ks=ks, num_classes=num_classes)
        for n in ks:
            ranked[n].append(np.asarray(best[n])[: chunk - missing])
    return {n: np.concatenate(parts) for n, parts in ranked.items()}


def accuracy(ranked: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns top-1 and top-5 accuracy in percent.

    Args:
      ranked: [Q, R] the classes of every query, best first; top-5 counts all R.
      labels: [Q] the true classes.
    """
    hits = ranked == np.asarray(labels)[:, None]
    return 100 * float(hits[:, 0].mean()), 100 * float(hits.any(axis=1).mean())


def _unit(features: np.ndarray) -> jax.Array:
    """Scales rows to length 1 (rows of zeros stay)."""
    features = jnp.asarray(features)
    norms = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norms, jnp.finfo(features.dtype).tiny)


@functools.partial(jax.jit, static_argnames=("ks", "num_classes"))
def _rank(train, labels, queries, temperature, *, ks: tuple[int, ...], num_classes: int):
    """Ranks classes for queries [q, D]: {k: [q, min(5, C)] int32}."""
    # "highest": the default would run in bfloat16 on a TPU and in TF32 on a GPU.
    similarity = jnp.matmul(queries, train.T, precision="highest")  # [q, M]
    nearest, index = jax.lax.top_k(similarity, max(ks))  # [q, k]
    # Relative to the nearest, which scales all votes of a query alike: exp cannot overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    classes = jax.nn.one_hot(labels[index], num_classes, dtype=weights.dtype)  # [q, k, C]
    ranked = {}
    for k in ks:
        votes = jnp.einsum("qk,qkc->qc", weights[:, :k], classes[:, :k], precision="highest")
        ranked[k] = jax.lax.top_k(votes, min(_RANKED, num_classes))[1]
    return ranked
