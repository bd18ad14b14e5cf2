"""Recognition of single things: exhibits of a museum (Met, GAP) and places (AmsterTime, mAP).

What it measures: whether images of one thing lie close together, by the cosine of their class
tokens; nothing is trained, as in DINOv2 (table 9).

  met: each query is what its nearest image in the museum's database shows; queries are ranked by
    how sure that is, those that show nothing of the museum among them (arXiv 2202.01747). By how
    many neighbours, and at which temperature, is chosen on the validation queries, as there; beside
    it, by the nearest neighbour alone.
  amstertime: the street view of a historical photo is looked for among all street views, and the
    other way round (arXiv 2203.16291).

Data: DATA/met/ground_truth/*.json with DATA/met/images/*; DATA/amstertime/new/* and old/*.

    python -m ibot_jax.evaluate instances --from=runs/mine --data=DATA --set=met
"""

import argparse
import itertools

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.instance_sets import read_amstertime, read_met
from ibot_jax.evaluate.common.opening import Views, open_model, open_views, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.evaluate.measures.instances import (
    global_average_precision,
    nearest_instances,
    reciprocal_ranks,
)
from ibot_jax.evaluate.measures.neighbours import nearest
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh

# What Met's own evaluation chooses from.
KS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)

Rows = tuple[list[dict], dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder of met/ and amstertime/")
    group.add_argument(
        "--set",
        dest="dataset",
        required=True,
        choices=("met", "mini-met", "amstertime"),
        help="mini-met has a tenth of the exhibits' images, for a first look",
    )
    flags.add(group, "--size", "--resize")
    flags.add(group, "--batch-size", default=256)
    flags.add(group, "--workers")
    flags.add_feature_options(parser)


def run(args: argparse.Namespace) -> Report:
    """Finds the nearest images of all queries and measures them.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    with same_end():
        data = absolute_path(args.data)
        of_met = args.dataset != "amstertime"
        splits = read_met(data, args.dataset == "mini-met") if of_met else read_amstertime(data)
    model, params = open_model(args, mesh)
    views = open_views(args, model, mesh)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    measure = _met if of_met else _amstertime
    rows, metrics = measure(splits, cache, views, mesh)
    return Report("instances", settings(args, model), metrics, rows)


def _met(splits, cache: FeatureCache, views: Views, mesh: jax.sharding.Mesh) -> Rows:
    database, *queries = splits
    bank = cache(database, views, database.name)
    ids = database.targets[bank.places]
    num_ids = len(np.unique(ids))
    found = []
    for split in queries:
        features = cache(split, views, split.name)
        wanted = split.targets[features.places]
        if not (wanted >= 0).any():
            raise UserError(f"none of the images of {split.name} that show an exhibit can be read")
        k = min(max(KS), len(ids))
        cosines, rows = nearest(bank.values, features.values, k=k, mesh=mesh)
        found.append((cosines, ids[rows], wanted))

    def measured(part: int, k: int, temperature: float) -> dict[str, float]:
        cosines, neighbours, wanted = found[part]
        answers, confidence = nearest_instances(
            cosines[:, :k], neighbours[:, :k], temperature, num_ids
        )
        right, shown = answers == wanted, wanted >= 0
        return {
            "gap": global_average_precision(right, confidence, shown.sum()),
            "gap_of_shown": global_average_precision(right[shown], confidence[shown], shown.sum()),
            "accuracy": 100 * float(right[shown].mean()),
        }

    choices = itertools.product(KS, TEMPERATURES)
    tuned = max(choices, key=lambda choice: measured(0, *choice)["gap"])
    rows = [
        {"by": by, "k": k, "temperature": temperature, **measured(1, k, temperature)}
        for by, (k, temperature) in (("chosen", tuned), ("nearest", (1, 1.0)))
    ]
    metrics = {name: rows[0][name] for name in ("gap", "gap_of_shown", "accuracy")}
    return rows, metrics | {"nearest_gap": rows[1]["gap"]}


def _amstertime(splits, cache: FeatureCache, views: Views, mesh: jax.sharding.Mesh) -> Rows:
    del mesh
    features = [cache(split, views, split.name) for split in splits]
    places = np.intersect1d(features[0].places, features[1].places)  # both can be read
    new, old = (_unit(each.values[np.isin(each.places, places)]) for each in features)
    cosines = new @ old.T
    rows, directions = [], {"new to old": cosines, "old to new": cosines.T}
    for name, similarity in directions.items():
        found = reciprocal_ranks(similarity)
        rows.append({"queries": name, "images": len(found), **_of_ranks(found)})
    both = np.concatenate([reciprocal_ranks(each) for each in directions.values()])
    rows.append({"queries": "all", "images": len(both), **_of_ranks(both)})
    return rows, _of_ranks(both)


def _of_ranks(reciprocal: np.ndarray) -> dict[str, float]:
    shares = {"map": reciprocal, "top1": reciprocal >= 1, "top5": reciprocal >= 1 / 5}
    return {name: 100 * float(values.mean()) for name, values in shares.items()}


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)
