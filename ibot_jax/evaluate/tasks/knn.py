"""Weighted k-nearest-neighbour classification of frozen features.

What it measures: whether images of one class lie close together. Every test image takes the class
for which its k nearest training images vote, each with weight exp(similarity / T); nothing is
trained. The search is exact; training features are spread over the devices. As in the original
(paper, section 4.2), whose k is 10 and 20, and T 0.07.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate knn --from=runs/mine --data=folder:PATH --k=10,20 --temperature=0.07
"""

import argparse

from ibot_jax.cli import flags
from ibot_jax.data.sources.readable import require_readable
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.evaluate.measures.neighbours import accuracy, weighted_knn
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.screen.progress import busy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser)
    flags.add_feature_options(parser)
    group = parser.add_argument_group("k-NN")
    group.add_argument(
        "--k",
        type=flags.sequence(flags.positive),
        default=(10, 20),
        metavar="N,...",
        help="how many neighbours vote; one search serves all (default: 10,20)",
    )
    group.add_argument(
        "--temperature",
        type=flags.sequence(flags.above_zero),
        default=(0.07,),
        metavar="T,...",
        help="of the votes; one search serves all (default: 0.07)",
    )
    group.add_argument(
        "--leave-one-out",
        action="store_true",
        help="a test image that is a training image, too, by its bytes, has no vote for itself",
    )


def run(args: argparse.Namespace) -> Report:
    """Measures the accuracy at every k and temperature.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    train_source, test_source, shared = opening.open_labelled(args, model)
    voters = len(train_source) - (shared.copies if args.leave_one_out else 0)
    if max(args.k) > voters:
        raise UserError(
            f"--k={max(args.k)} is larger than the {voters:,} images of "
            f"--train-split={args.train_split} that vote; lower it"
        )
    if args.leave_one_out and isinstance(train_source, TfdsStream):
        raise UserError(
            f"--leave-one-out needs images in a known order; prepare --data={args.data} with "
            "--file_format=array_record"
        )
    views = opening.open_views(args, model, mesh)
    needed, purpose = max(args.k) + len(train_source) - voters, f"--k={max(args.k)}"
    with same_end():
        require_readable(train_source, views.decoding, needed, purpose)
    cache = FeatureCache(args.cache, model, params, mesh, kind=args.features, blocks=args.blocks)
    train = cache(train_source, views, "train", needed=needed, purpose=purpose)
    test = cache(test_source, views, "test")
    left_out = None
    if args.leave_one_out:
        left_out = shared.first[train.places], shared.second[test.places]
    with busy("neighbours"):
        ranked = weighted_knn(
            train.values,
            train.labels,
            test.values,
            ks=args.k,
            temperatures=args.temperature,
            num_classes=train_source.num_classes,
            mesh=mesh,
            left_out=left_out,
        )
    rows = []
    for (k, temperature), classes in ranked.items():
        top1, top5 = accuracy(classes, test.labels)
        rows.append({"k": k, "temperature": temperature, "top1": top1, "top5": top5})
    best = max(rows, key=lambda row: row["top1"])
    return Report(
        task="knn",
        settings=opening.settings(args, model),
        metrics={"top1": best["top1"], "top5": best["top5"]},
        rows=rows,
        shared_images=0 if args.leave_one_out else shared.count,
    )
