"""Logistic regression on frozen features, with all labels and with few.

What it measures: how well a linear classifier, trained to its optimum, tells the classes apart by
the features of images that are not augmented; with 1 % or 10 % of the labels, how many labels that
takes (paper, section 4.1, semi-supervised learning). The classifier has an L2 penalty, of which a
range is tried: the mean cross-entropy plus l2 / 2 times the squared norm of the weights is
minimised by L-BFGS; features have length 1. The best penalty is the best on the test split.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate logistic --from=runs/mine --data=folder:PATH --labels=all,10%,1%
"""

import argparse

import numpy as np

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import subsets
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache, Features
from ibot_jax.evaluate.measures.neighbours import accuracy
from ibot_jax.evaluate.probes.softmax_regression import fit, predict
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import progress

_L2 = tuple(10.0**-n for n in range(3, 9))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser)
    flags.add_feature_options(parser)
    group = parser.add_argument_group("logistic regression")
    group.add_argument(
        "--labels",
        type=flags.sequence(str),
        default=("all",),
        metavar="PART,...",
        help="which training images have labels: all, a share of each class such as 10%%, or a "
        "text file with an image's name a line, as SimCLR's lists (default: all)",
    )
    flags.add(group, "--seed", help="of shares")
    group.add_argument(
        "--l2",
        type=flags.sequence(flags.above_zero),
        default=_L2,
        metavar="X,...",
        help="penalties (default: 1e-3 to 1e-8, one a decade)",
    )
    flags.add_number(group, "--max-steps", 1000, "of the solver for each penalty")


def run(args: argparse.Namespace) -> Report:
    """Fits and measures a classifier for every part of the labels and every penalty.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    train_source, test_source, shared = opening.open_labelled(args, model)
    views = opening.open_views(args, model, mesh)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    train = cache(train_source, views, "train")
    with same_end():
        parts = {
            which: subsets.choose(which, train.labels, train.places, train_source, args.seed)
            for which in args.labels
        }
        _require_classes(parts, train, train_source.num_classes)
    test = cache(test_source, views, "test")
    rows = []
    for which, chosen in parts.items():
        part = _part(train, chosen)
        fits = fit(
            part.values,
            part.labels,
            l2s=args.l2,
            num_classes=train_source.num_classes,
            max_steps=args.max_steps,
            mesh=mesh,
        )
        for fitted in progress(fits, len(args.l2), f"{which} labels"):
            top1, top5 = accuracy(predict(fitted, test.values), test.labels)
            rows.append(
                {
                    "labels": which,
                    "images": len(chosen),
                    "l2": fitted.l2,
                    "top1": top1,
                    "top5": top5,
                    "steps": fitted.steps,
                }
            )
    metrics = {}
    for which in parts:
        best = max((row for row in rows if row["labels"] == which), key=lambda row: row["top1"])
        metrics |= {f"{which}/{name}": best[name] for name in ("top1", "top5")}
    settings = opening.settings(args, model)
    return Report("logistic", settings, metrics, rows, shared_images=shared.count)


def _require_classes(parts: dict[str, np.ndarray], train: Features, num_classes: int) -> None:
    """Makes sure that a list of images does not leave a class without any."""
    for which, chosen in parts.items():
        found = len(np.unique(train.labels[chosen]))
        if found < num_classes:
            raise UserError(
                f"--labels={which} has images of {found} of the {num_classes} classes only"
            )


def _part(train: Features, chosen: np.ndarray) -> Features:
    if len(chosen) == len(train.labels):
        return train  # which stays on the disk
    return Features(train.values[chosen], train.labels[chosen], train.places[chosen])
