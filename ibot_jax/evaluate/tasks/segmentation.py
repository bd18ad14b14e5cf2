"""Semantic segmentation by frozen patch tokens: a linear layer and k-NN, mIoU.

What it measures: whether a patch token tells what its patch shows. The linear layer learns from the
pixels of each training image (cross-entropy, AdamW, cosine schedule); for k-NN, patches drawn from
the training images vote by exp(cosine / T). Scores of patches are interpolated linearly and decided
pixel by pixel at the size of the annotation. The task is that of the paper (section 4.2), but not
its protocol: images become squares of --size pixels, without crops, augmentation and sliding
windows. Compare such results with each other, not with the paper's.

Data: --layout=ade20k: DATA/images/{training,validation}/*.jpg and DATA/annotations/.../*.png, 0
not annotated and 150 classes (ADEChallengeData2016). --layout=voc: DATA/JPEGImages/*.jpg,
DATA/SegmentationClass/*.png, 255 not annotated and 21 classes, and
DATA/ImageSets/Segmentation/{train,val}.txt (VOCdevkit/VOC2012).

    python -m ibot_jax.evaluate segmentation --from=runs/mine --data=DATA --layout=voc
"""

import argparse
import functools
from collections.abc import Sequence

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.segmentation_data import LAYOUTS, Squares, open_splits
from ibot_jax.evaluate.common.opening import open_model, open_rows, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.features.extract import last_blocks
from ibot_jax.evaluate.features.patch_maps import concatenated
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes.patch_heads import Linear, knn_votes
from ibot_jax.evaluate.probes.segmenting import Frozen, count_classes, fit_linear, sample_bank
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model

_HEADS = ("linear", "knn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="see above")
    flags.add(group, "--size", nargs=None, default=512, help="side of the squares of images")
    flags.add(group, "--batch-size", default=16)
    group = parser.add_argument_group("heads")
    group.add_argument(
        "--heads",
        default=_HEADS,
        type=flags.sequence(flags.one_of(_HEADS)),
        metavar="HEAD,...",
        help="linear, knn or both (default: linear,knn)",
    )
    flags.add(group, "--blocks", help="the last N blocks, whose tokens are concatenated")
    flags.add_number(group, "--epochs", 10, "of the linear layer")
    group.add_argument(
        "--lr",
        default=1e-3,
        type=flags.above_zero,
        metavar="RATE",
        help="learning rate of the linear layer (default: 0.001)",
    )
    flags.add_number(group, "--bank", 100_000, "patches that vote in k-NN")
    flags.add_number(group, "--k", 30, "neighbours that vote")
    flags.add_number(
        group, "--temperature", 0.07, "of the votes", kind=flags.above_zero, metavar="T"
    )
    flags.add(group, "--seed", help="of the order and the bank")


def run(args: argparse.Namespace) -> Report:
    """Fits both heads to the training images and measures them on the others.

    Raises:
      UserError: for what the user can mend.
    """
    train, test, shared = open_splits(args)
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    _check(args, model)
    frozen = Frozen(
        make_patch_fn(model, last_blocks(model, args.blocks)),
        params,
        Squares(args.size, Decoding.of(model.config.data), open_rows(args, mesh)),
        mesh,
    )
    votes = functools.partial(knn_votes, k=args.k, temperature=args.temperature)
    rows = []
    for name in args.heads:
        if name == "linear":
            head = fit_linear(
                frozen, train, epochs=args.epochs, learning_rate=args.lr, seed=args.seed
            )
        else:
            head = sample_bank(frozen, train, number=args.bank, seed=args.seed)
            if args.k > len(head.features):
                raise UserError(
                    f"--k={args.k} is more than the {len(head.features)} patches in the bank"
                )
        score_fn = Linear.__call__ if name == "linear" else votes
        counts = count_classes(frozen, score_fn, head, test)
        rows.append({"head": name, "images": len(test), **mean_iou.scores(counts)})
    metrics = {
        f"{row['head']}_{key}": value
        for row in rows
        for key, value in row.items()
        if isinstance(value, float)
    }
    return Report("segmentation", settings(args, model), metrics, rows, shared_images=shared)


def make_patch_fn(model: Model, wanted: Sequence[int]):
    """Returns the function from (params, images) to the patch tokens of some blocks, concatenated.

    Blocks of other stages are brought to the finest grid of them, bilinearly: [B, h, w, F].
    """

    def patches(params, images):
        return concatenated([x.patches for x in model.layers(params, images, wanted)])

    return patches


def _check(args: argparse.Namespace, model: Model) -> None:
    size = args.size, args.size
    if model.geometry.whole(size) != size:
        raise UserError(
            f"--size={args.size} is no multiple of the patch size, {model.geometry.stride}"
        )
