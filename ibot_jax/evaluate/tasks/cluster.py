"""Unsupervised classification: clusters of images, compared with classes that they never saw.

What it measures: how well the clusters agree with the classes (paper, section 4.1, unsupervised
learning). A cluster is what the projection head's class token puts on the same prototype (head), or
what k-means finds among features of length 1 (kmeans). Clusters are matched to classes one to one,
which gives the accuracy (Hungarian method); images in clusters that are left over count as wrong.
NMI and ARI are normalised mutual information and adjusted Rand index; of the pairs of images that
share a cluster or a class, fmi and f1 are the geometric mean (Fowlkes and Mallows, the original's
F-score) and the harmonic mean of precision and recall. All in percent.

Data: one labelled split, whose labels serve the comparison only: a folder PATH/test/CLASS/* (name
another by --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate cluster --from=runs/mine --data=folder:PATH --by=head,kmeans
"""

import argparse
import functools
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import busy
from ibot_jax.weights.model import Model

_METHODS = ("head", "kmeans")
_MAX_LOGITS = 2**26  # at a time: 256 MiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser, splits=("test",))
    flags.add_feature_options(parser)
    group = parser.add_argument_group("clusters")
    group.add_argument(
        "--by",
        type=flags.sequence(flags.one_of(_METHODS)),
        default=_METHODS,
        metavar="METHOD,...",
        help="head, kmeans or both; --features and --blocks are those of kmeans (default: both)",
    )
    group.add_argument(
        "--clusters",
        type=flags.positive,
        metavar="N",
        help="of kmeans (default: as many as classes)",
    )
    flags.add_number(group, "--restarts", 10, "of kmeans, of which the tightest counts")
    flags.add(group, "--seed", help="of kmeans")


def run(args: argparse.Namespace) -> Report:
    """Clusters the images, and compares.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh, head="head" in args.by)
    source = opening.open_split(args, model, "test")
    opening.require_labels(args, "test", source)
    views = opening.open_views(args, model, mesh)
    clusters = args.clusters or source.num_classes
    if "kmeans" in args.by and clusters > len(source):
        raise UserError(
            f"--clusters={clusters} is more than the {len(source):,} images of "
            f"--test-split={args.test_split}; lower it"
        )
    rows = []
    for method in args.by:
        if method == "head":
            cache = FeatureCache(args.cache, model, params, mesh)
            found = cache(source, views, "test")
            assigned = assign_by_head(model, jax.device_get(params["head"]), found.values)
            clusters_of_method = model.config.head.prototypes
        else:
            cache = FeatureCache(
                args.cache, model, params, mesh, kind=args.features, blocks=args.blocks
            )
            needed = dict(needed=clusters, purpose=f"--clusters={clusters}")
            found = cache(source, views, "test", **needed)
            with busy("k-means"):
                assigned = assign_by_kmeans(found.values, clusters, args.restarts, args.seed)
            clusters_of_method = clusters
        row = {"by": method, "clusters": clusters_of_method, "used": len(np.unique(assigned))}
        rows.append(row | agreement(found.labels, assigned))
    named = {
        f"{row['by']}/{name}": value
        for row in rows
        for name, value in row.items()
        if isinstance(value, float)
    }
    return Report("cluster", opening.settings(args, model), named, rows)


def assign_by_head(model: Model, head: Any, tokens: np.ndarray) -> np.ndarray:
    """Returns for each class token [M, D] the prototype that the head prefers, [M] int32."""
    chunk = min(max(_MAX_LOGITS // model.config.head.prototypes, 1), len(tokens))
    parts = []
    for start in range(0, len(tokens), chunk):
        part = np.asarray(tokens[start : start + chunk])
        missing = chunk - len(part)  # one shape for every chunk: one compilation
        best = _prefer(model, head, np.pad(part, ((0, missing), (0, 0))))
        parts.append(np.asarray(best)[: chunk - missing])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _prefer(model: Model, head: Any, tokens: jax.Array) -> jax.Array:
    return model.logits({"head": head}, tokens)[0].argmax(-1)


def assign_by_kmeans(features: np.ndarray, clusters: int, restarts: int, seed: int) -> np.ndarray:
    """Returns the cluster of each row of [M, F] features, scaled to length 1, [M] int32."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, np.finfo(np.float32).tiny)
    return KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(unit)


def agreement(labels: np.ndarray, assigned: np.ndarray) -> dict[str, float]:
    """Returns how well clusters agree with classes, in percent; see the module.

    Args:
      labels: [M] the classes.
      assigned: [M] the clusters, any integers.
    """
    table = contingency_matrix(labels, assigned)
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    (_, only_cluster), (only_class, both) = pair_confusion_matrix(labels, assigned)
    return {
        "accuracy": 100 * float(matched / len(labels)),
        "nmi": 100 * float(metrics.normalized_mutual_info_score(labels, assigned)),
        "ari": 100 * float(metrics.adjusted_rand_score(labels, assigned)),
        "fmi": 100 * float(metrics.fowlkes_mallows_score(labels, assigned)),
        "f1": 100 * float(2 * both / max(2 * both + only_cluster + only_class, 1)),
    }
