"""Attentive probes of frozen patch tokens: what an image shows, by what a query picks out of it.

What it measures: how much patch tokens know of the class, whatever the class token does. As in CAPI
(arXiv 2502.08769): a learned query attends to the patch tokens of the last block, with keys, values
and heads of 64 entries, and a linear layer follows; AdamW on random crops, 12,500 steps of 1,024
images, whose rate rises for a tenth of them and falls along a cosine. Learning rates and weight
decays are tried all at once; the best on a tenth of the training images, which none learns from, is
measured on the test split.

Data: a train and a test split, labelled alike: folders PATH/train/CLASS/* and PATH/test/CLASS/*
(name others by --train-split and --test-split), digits, or TFDS.

    python -m ibot_jax.evaluate attentive --from=runs/mine --data=folder:PATH --steps=12500
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.config.plan import Plan
from ibot_jax.data.sources.identity import fingerprint
from ibot_jax.data.sources.opening import Subset
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common import opening
from ibot_jax.evaluate.common.random_crops import add_crop_options, crop_batches, crop_settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.cache import identity
from ibot_jax.evaluate.probes import attentive_training
from ibot_jax.parallel.agreement import same_end
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model

_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
_DECAYS = (5e-4, 1e-3, 5e-2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    flags.add_data_options(parser, batch_size=1024)
    group = parser.add_argument_group("training")
    flags.add_number(group, "--steps", 12_500, "of the training")
    group.add_argument(
        "--lr",
        type=flags.sequence(flags.above_zero),
        default=_RATES,
        metavar="X,...",
        help="learning rates for 256 images (default: ten from 1e-5 to 1e-2)",
    )
    group.add_argument(
        "--weight-decay",
        type=flags.sequence(flags.above_zero),
        default=_DECAYS,
        metavar="X,...",
        help="each with each learning rate (default: 5e-4,1e-3,5e-2)",
    )
    add_crop_options(group)
    flags.add(group, "--seed", help="of the probes, the order, the crops, and what is held out")


def run(args: argparse.Namespace) -> Report:
    """Trains the probes, chooses one, and measures it.

    Raises:
      UserError: for what the user can mend.
    """
    mesh = make_mesh()
    model, params = opening.open_model(args, mesh)
    whole, test, shared = opening.open_labelled(args, model)
    views = opening.open_views(args, model, mesh)
    if isinstance(whole, TfdsStream):
        raise UserError(
            f"--data={args.data} is in no known order, and a tenth of it is held out; prepare it "
            "with --file_format=array_record"
        )
    order = np.random.default_rng(args.seed).permutation(len(whole))
    held_out, train = np.sort(order[: len(whole) // 10]), np.sort(order[len(whole) // 10 :])
    if len(train) < args.batch_size or not len(held_out):
        raise UserError(
            f"--batch-size={args.batch_size} is more than the {len(train):,} images of "
            f"--train-split={args.train_split} without the tenth that is held out; lower it"
        )
    train, held_out = Subset(whole, train), Subset(whole, held_out)
    choices = list(itertools.product(args.lr, args.weight_decay))
    rates, decays = zip(*choices, strict=True)
    crops = crop_settings(args)
    plan = Plan(args.batch_size, len(train) // args.batch_size, args.steps)
    setting = attentive_training.Setting(
        patch_fn=_make_patch_fn(model),
        params=params,
        mesh=mesh,
        batches=crop_batches(train, views, model, plan, args.seed, crops),
        batch_size=args.batch_size,
        width=model.geometry.width,
        num_classes=whole.num_classes,
        rates=rates,
        decays=decays,
        steps=args.steps,
        seed=args.seed,
    )
    with same_end():
        about = identity(model, params, "patches", 1) | views.cut()
        about |= {"crops": crops, "train": fingerprint(train), "choices": choices}
        about |= {"steps": args.steps, "batch_size": args.batch_size, "seed": args.seed}
    probes = attentive_training.fit(setting, args.out, about)
    chosen_on = attentive_training.measure(setting, probes, held_out, views, "held out")
    measured = attentive_training.measure(setting, probes, test, views, "test")
    rows = [
        {"lr": rate, "weight_decay": decay, "held_out": float(one), "top1": float(other)}
        for rate, decay, one, other in zip(rates, decays, chosen_on, measured, strict=True)
    ]
    best = rows[int(chosen_on.argmax())]
    metrics = {"top1": best["top1"], "held_out": best["held_out"]}
    settings = opening.settings(args, model)
    return Report("attentive", settings, metrics, rows, shared_images=shared.count)


def _make_patch_fn(model: Model):
    """Returns (params, images [B, H, W, C] uint8) -> patch tokens of the last block [B, N, D]."""

    def patches(params, images: jax.Array) -> jax.Array:
        tokens = model.features(params, model.whole_patches(images)).patches
        return tokens.reshape(len(tokens), -1, tokens.shape[-1]).astype(jnp.float32)

    return patches
