"""Few images of each class: logistic regression and nearest class mean, over several draws.

What it measures: how many labelled images a classifier needs. Of each class --shots images are
drawn, --draws times; the means over the draws and their deviations are told, top-1 on the whole
test split. By logistic regression, as MSN measures it (arXiv 2204.07141): one penalty, nothing is
chosen on test images; and by the nearest of the classes' means, as SimpleShot (arXiv 1911.04623).
Features have length 1 for both.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate fewshot --from=runs/mine --data=folder:PATH --shots=1,2,4,8,16
"""

import argparse
from collections.abc import Callable

import numpy as np

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.subsets import few_of_each
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.evaluate.probes.class_means import nearest_mean
from ibot_jax.evaluate.probes.softmax_regression import fit, predict
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser)
    flags.add_feature_options(parser)
    group = parser.add_argument_group("draws")
    group.add_argument(
        "--shots",
        type=flags.sequence(flags.positive),
        default=(1, 2, 4, 8, 16),
        metavar="N,...",
        help="images of each class (default: 1,2,4,8,16)",
    )
    flags.add_number(group, "--draws", 5, "of them; the fewer are among the more")
    flags.add(group, "--seed", help="of the first draw; the next ones have the next seeds")
    group = parser.add_argument_group("logistic regression")
    flags.add_number(
        group,
        "--l2",
        2.5e-4,
        "penalty, which is divided by the number of images",
        kind=flags.above_zero,
        metavar="X",
    )
    flags.add_number(group, "--max-steps", 300, "of the solver")


def run(args: argparse.Namespace) -> Report:
    """Measures both classifiers for every number of images and every draw.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    train_source, test_source, shared = opening.open_labelled(args, model)
    views = opening.open_views(args, model, mesh)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    train = cache(train_source, views, "train")
    num_classes = train_source.num_classes
    with same_end():
        found = np.bincount(train.labels[train.labels >= 0], minlength=num_classes)
        if found.min() < max(args.shots):
            raise UserError(
                f"--shots={max(args.shots)} is more than the {found.min()} training images of "
                f"{(train_source.class_names or range(num_classes))[found.argmin()]}; lower it"
            )
    test = cache(test_source, views, "test")
    counts = test.labels >= 0

    def logistic(features, labels):
        (fitted,) = fit(
            features,
            labels,
            l2s=(args.l2 / len(labels),),
            num_classes=num_classes,
            max_steps=args.max_steps,
            mesh=mesh,
        )
        return predict(fitted, test.values, ranked=1)[:, 0]

    def mean(features, labels):
        return nearest_mean(features, labels, test.values, num_classes)

    def top1(by: Callable, shots: int, draw: int) -> float:
        chosen = few_of_each(shots, train.labels, args.seed + draw)
        classes = by(train.values[chosen], train.labels[chosen])
        return 100 * float(np.mean(classes[counts] == test.labels[counts]))

    rows, metrics = [], {}
    for shots in args.shots:
        for by in (logistic, mean):
            draws = progress(range(args.draws), args.draws, f"{shots} of each, {by.__name__}")
            values = [top1(by, shots, draw) for draw in draws]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            rows.append(
                {
                    "shots": shots,
                    "by": by.__name__,
                    "draws": args.draws,
                    "top1": float(np.mean(values)),
                    "deviation": deviation,
                }
            )
            metrics[f"{shots}-shot/{by.__name__}"] = float(np.mean(values))
            metrics[f"{shots}-shot/{by.__name__}_deviation"] = deviation
    return Report(
        "fewshot", opening.settings(args, model), metrics, rows, shared_images=shared.count
    )
