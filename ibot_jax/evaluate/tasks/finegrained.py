"""Twelve fine-grained sets: a linear classifier at its optimum, and k-NN, on each.

What it measures: whether features tell apart classes that look alike: dishes, scenes, cars,
aircraft, textures, pets, flowers, birds. As in DINOv2 (table 8), SimCLR and Kornblith et al. (arXiv
1805.08974): logistic regression on the features of images that are not augmented; its penalty is
the best of 45 on held-out training images (those that the set names, else a tenth), and the
classifier is then fitted to all of them. Each set has its published measure: top-1, the mean of the
classes' accuracies, or for VOC2007 the mean average precision at eleven recalls. Beside it, k-NN by
the same measure.

Data: a folder for each set in DATA, as its archives have it; docs/evaluations.md lists what is in
each: food-101, cifar-10-batches-py, cifar-100-python, SUN397, stanford_cars, fgvc-aircraft-2013b,
VOCdevkit/VOC2007, dtd, oxford-iiit-pet, caltech-101, flowers-102, CUB_200_2011.

    python -m ibot_jax.evaluate finegrained --from=runs/mine --data=DATA --set=food101,cars
"""

import argparse
import logging
from typing import Any

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.examples import count_shared
from ibot_jax.evaluate.benchmarks.finegrained.sets import SETS, FineGrained, find, read
from ibot_jax.evaluate.common.opening import open_model, open_views, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.evaluate.measures.classification import MEASURES
from ibot_jax.evaluate.measures.neighbours import nearest, votes
from ibot_jax.evaluate.probes.chosen_regression import fit_chosen
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.processes import is_first

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="the folder of the sets' folders")
    group.add_argument(
        "--set",
        dest="sets",
        type=flags.sequence(flags.one_of(tuple(SETS))),
        metavar="NAME,...",
        help=f"of {', '.join(SETS)} (default: those that are there)",
    )
    group.add_argument(
        "--max-per-class",
        default=0,
        type=flags.natural,
        metavar="N",
        help="keep the first N images of each class in each split, for a first look (default: all)",
    )
    flags.add(group, "--size", "--resize")
    flags.add(group, "--batch-size", default=256)
    flags.add(group, "--workers")
    flags.add_feature_options(parser)
    group = parser.add_argument_group("classifiers")
    flags.add_number(group, "--max-steps", 1000, "of the solver for each penalty")
    flags.add_number(group, "--k", 20, "neighbours")
    flags.add_number(
        group, "--temperature", 0.07, "of their votes", kind=flags.above_zero, metavar="T"
    )
    flags.add(group, "--seed", help="of the tenth that is held out, and of Caltech-101's split")


def run(args: argparse.Namespace) -> Report:
    """Fits and measures both classifiers on every set.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    with same_end():
        data = absolute_path(args.data)
        lacking = []
        if not args.sets:
            args.sets = tuple(find(data, tuple(SETS)))
            absent = [each for name, each in SETS.items() if name not in args.sets]
            lacking = [f"{each.folder} ({each.page})" for each in absent]
            if not args.sets:
                raise UserError(f"--data={args.data} has none of the sets: {', '.join(lacking)}")
        sets = {name: read(data, name, args.seed, args.max_per_class) for name in args.sets}
        for name, each in sets.items():
            if args.k > len(each.train):
                raise UserError(f"--k={args.k} is more than the {len(each.train)} images of {name}")
        shared = sum(count_shared(each.train, each.test) for each in sets.values())
    if lacking and is_first():
        _log.warning("--data=%s lacks %s", args.data, ", ".join(lacking))
    model, params = open_model(args, mesh)
    views = open_views(args, model, mesh)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    rows = [_measured(args, name, each, cache, views, mesh) for name, each in sets.items()]
    metrics = {}
    for by in ("logistic", "knn"):
        metrics |= {f"{row['set']}/{by}": row[by] for row in rows}
        if len(rows) == len(SETS):
            metrics[f"mean/{by}"] = sum(row[by] for row in rows) / len(rows)
    return Report("finegrained", settings(args, model), metrics, rows, shared_images=shared)


def _measured(
    args: argparse.Namespace, name: str, of_set: FineGrained, cache: FeatureCache, views, mesh
) -> dict[str, Any]:
    """Returns the row of a set."""
    described, num_classes = SETS[name], len(of_set.train.class_names)
    measure = MEASURES[described.measure]
    train = cache(of_set.train, views, f"{name} train", needed=args.k, purpose=f"--k={args.k}")
    test = cache(of_set.test, views, f"{name} test")
    targets, wanted = of_set.train.targets[train.places], of_set.test.targets[test.places]
    scores, strength = fit_chosen(
        train.values,
        targets,
        of_set.held_out[train.places],
        test.values,
        num_classes=num_classes,
        measure=measure,
        mesh=mesh,
        max_steps=args.max_steps,
        what=name,
    )
    cosines, neighbours = nearest(train.values, test.values, k=args.k, mesh=mesh)
    shares = votes(
        cosines, targets[neighbours], temperature=args.temperature, num_classes=num_classes
    )
    return {
        "set": name,
        "images": len(targets),
        "test": len(wanted),
        "measure": described.measure,
        "logistic": measure(scores, wanted),
        "C": strength,
        "knn": measure(shares, wanted),
    }
