"""Weighted k-nearest-neighbour classification of features, exact, as the original measures it.

Each of a query's k nearest training features, by cosine similarity s, votes for its class with
weight exp(s / T); classes are ranked by their votes, and of equal ones the lower comes first.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ibot_jax.agreement import in_step
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.sources import open_source
from ibot_jax.errors import UserError
from ibot_jax.evaluate.features import FeatureFn, extract
from ibot_jax.watchdog import Watch

# Largest float32 array that a chunk of queries may need: 2**27 entries are 512 MiB.
_MAX_ENTRIES = 2**27
_RANKED = 5  # classes kept of the ranking, for top-5


class Evaluation:
    """k-NN of a backbone on the train and test split of labelled data.

    Attributes:
      sizes: the numbers of images, in words.
    """

    def __init__(
        self, data: ConfigDict, settings: ConfigDict, watch: Watch = contextlib.nullcontext
    ):
        """Opens both splits, so that what is wrong with them is known at once.

        Args:
          data: `config.data`.
          settings: `config.knn`.
          watch: is told of every wait for images.

        Raises:
          UserError: if they cannot be opened, have no labels or do not fit each other.
        """
        self._data = data
        self._settings = settings
        self._watch = watch
        self._train = self._open("train")
        self._test = self._open("test")
        if self._train.class_names != self._test.class_names:
            raise UserError(
                f"knn.test_split={settings.test_split!r} has other classes than "
                f'knn.train_split={settings.train_split!r}; mend one, or set knn.every=""'
            )
        if settings.k > len(self._train):
            raise UserError(
                f"knn.k={settings.k} is larger than the {len(self._train)} images of "
                f"{self._train.name}; lower it"
            )
        self.sizes = f"{len(self._train):,} train and {len(self._test):,} test images"

    def __call__(
        self, feature_fn: FeatureFn, params: Any, mesh: jax.sharding.Mesh
    ) -> tuple[float, float]:
        """Returns top-1 and top-5 accuracy in percent, on every process.

        Args:
          feature_fn: (params, images [B, H, W, C] uint8) -> features [B, D].
          params: its parameters.
          mesh: the devices.
        """
        features, labels = {}, {}
        for name, source in (("train", self._train), ("test", self._test)):
            features[name], labels[name] = extract(feature_fn, params, self._batches(source), mesh)
        k = self._settings.k
        ranked = weighted_knn(
            features["train"],
            labels["train"],
            features["test"],
            k=k,
            temperature=self._settings.temperature,
            num_classes=self._train.num_classes,
        )
        return accuracy(ranked[k], labels["test"])

    def _open(self, name: str):
        split = self._settings[f"{name}_split"]
        source = open_source(
            self._data.source,
            split,
            data_dir=self._data.data_dir,
            max_per_class=self._settings[f"max_{name}_per_class"],
            channels=self._data.channels,
        )
        if source.num_classes is None:
            raise UserError(
                f"knn.{name}_split={split!r} of {self._data.source!r} has no labels; turn k-NN "
                'off with knn.every=""'
            )
        return source

    def _batches(self, source):
        batches = eval_batches(
            source,
            self._data.global_size,
            self._settings.resize,
            self._settings.batch_size // jax.process_count(),
            self._data.channels,
            jax.process_index(),
            jax.process_count(),
        )
        return (batch for batch, _ in in_step(batches, watch=self._watch))


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
