"""Linear classification of frozen features, trained on augmented images, many settings at once.

What it measures: how well a linear layer on frozen features tells the classes apart (paper,
section 4.1). As in the original: every epoch, each training image passes the frozen backbone once,
as a random resized crop, flipped or not; all classifiers learn from it at once, by SGD with
momentum 0.9 and without weight decay. They differ in the learning rate (lr * batch / 256, falling
along a cosine) and in the features: the class tokens of the last n blocks (cls), the means of their
patch tokens (mean), the class tokens and the last mean (cls+mean). The best one is the best on the
test split, at the end; the whole sweep is reported. Interrupted, the same command goes on after the
last whole epoch, with the same outcome.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate linear --from=runs/mine --data=folder:PATH --epochs=100
"""

import argparse
import json

from ibot_jax.cli import flags
from ibot_jax.config.plan import Plan
from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.random_crops import add_crop_options, crop_batches, crop_settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import FeatureCache, identity
from ibot_jax.evaluate.features.extract import last_blocks, make_feature_fn
from ibot_jax.evaluate.probes import linear_training
from ibot_jax.evaluate.probes.linear_sweep import Sweep, Variant
from ibot_jax.evaluate.probes.linear_training import Task
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.layouts import num_shards
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model

_RATES = tuple(float(f"{n}e{k}") for k in range(-4, 1) for n in range(1, 10))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser, batch_size=1024)
    group = parser.add_argument_group("features")
    group.add_argument(
        "--features",
        type=flags.sequence(flags.one_of(flags.FEATURES)),
        default=("cls", "mean", "cls+mean"),
        metavar="KIND,...",
        help="cls, mean, cls+mean; or pixels, which stands alone (default: cls,mean,cls+mean)",
    )
    group.add_argument(
        "--blocks",
        type=flags.sequence(flags.positive),
        metavar="N,...",
        help="how many of the last blocks (default: 1,4)",
    )
    flags.add(group, "--cache")
    group = parser.add_argument_group("training")
    flags.add_number(group, "--epochs", 100, "passes over the training images")
    group.add_argument(
        "--lr",
        type=flags.sequence(flags.above_zero),
        default=_RATES,
        metavar="X,...",
        help="learning rates for 256 images (default: the original's 45, 1 to 9 times 1e-4 to 1)",
    )
    add_crop_options(group)
    flags.add(group, "--seed")


def run(args: argparse.Namespace) -> Report:
    """Trains the classifiers and reports them all.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    train, test, shared = opening.open_labelled(args, model)
    views = opening.open_views(args, model, mesh)
    variants, kind, blocks = _variants(args, model)
    if len(train) < args.batch_size:
        raise UserError(
            f"--batch-size={args.batch_size} is more than the {len(train):,} images of "
            f"--train-split={args.train_split}; lower it"
        )
    sweep = Sweep(
        variants=variants,
        widths=tuple(model.geometry.width_of(block) for block in last_blocks(model, blocks)),
        rates=args.lr,
        slots=-(-len(args.lr) // num_shards(mesh)) * num_shards(mesh),
        num_classes=train.num_classes,
        batch_size=args.batch_size,
        steps_per_epoch=len(train) // args.batch_size,
        epochs=args.epochs,
    )
    plan = Plan(args.batch_size, sweep.steps_per_epoch, sweep.epochs * sweep.steps_per_epoch)
    data = crop_settings(args)
    with same_end():
        about = identity(model, params, kind, blocks)
        about |= views.cut() | {"data": json.dumps({"seed": args.seed, "data": data})}
        about |= {"train": fingerprint(train), "test": fingerprint(test)}

    cache = FeatureCache(args.cache, model, params, mesh, kind=kind, blocks=blocks)
    task = Task(
        sweep=sweep,
        feature_fn=make_feature_fn(model, kind, blocks),
        params={} if kind == "pixels" else params,
        batches=crop_batches(train, views, model, plan, args.seed, data),
        test=cache(test, views, "test"),
        mesh=mesh,
        seed=args.seed,
    )
    top = linear_training.train(task, args.out, about)
    rows = [
        {
            "features": v.kind,
            "blocks": v.blocks,
            "lr": rate,
            "top1": float(first),
            "top5": float(five),
        }
        for v in variants
        for rate, first, five in zip(args.lr, *top[v.name], strict=True)
    ]
    best = max(rows, key=lambda row: row["top1"])
    metrics = {"top1": best["top1"], "top5": best["top5"]}
    for variant in variants:
        metrics[f"{variant.name}/top1"] = float(top[variant.name][0].max())
    settings = opening.settings(args, model)
    return Report("linear", settings, metrics, rows, shared_images=shared.count)


def _variants(args: argparse.Namespace, model: Model) -> tuple[tuple[Variant, ...], str, int]:
    """Returns the variants, and kind and number of blocks of the features that hold them all."""
    if "pixels" in args.features:
        if len(args.features) > 1:
            raise UserError(
                f"--features={','.join(args.features)}: pixels stand alone; give them another run"
            )
        return (Variant("pixels", 1),), "pixels", 1
    blocks = args.blocks or tuple(dict.fromkeys((1, min(4, model.geometry.depth))))
    variants = tuple(Variant(kind, n) for kind in args.features for n in blocks)
    return variants, "all", max(blocks)
