"""Semantic segmentation by frozen patch tokens and a linear layer: a quick look, mIoU.

What it measures: whether a patch token tells what its patch shows. A linear layer learns from the
pixels of each training image (cross-entropy, AdamW, cosine schedule). Scores of patches are
interpolated linearly and decided pixel by pixel at the size of the annotation. The task is that of
the paper (section 4.2), but not its protocol: images become squares of --size pixels, without
crops, augmentation and sliding windows. Compare such results with each other; beside published
ones stand those of `semseg` and, by nearest neighbours, `incontext`.

Data: --layout=ade20k: DATA/images/{training,validation}/*.jpg and DATA/annotations/.../*.png, 0
not annotated and 150 classes (ADEChallengeData2016). --layout=voc: DATA/JPEGImages/*.jpg,
DATA/SegmentationClass/*.png, 255 not annotated and 21 classes, and
DATA/ImageSets/Segmentation/{train,val}.txt (VOCdevkit/VOC2012).

    python -m ibot_jax.evaluate segmentation --from=runs/mine --data=DATA --layout=voc
"""

import argparse
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
from ibot_jax.evaluate.probes.segmenting import Frozen, count_classes, fit_linear
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="see above")
    flags.add(group, "--size", nargs=None, default=512, help="side of the squares of images")
    flags.add(group, "--batch-size", default=16)
    group = parser.add_argument_group("head")
    flags.add(group, "--blocks", help="the last N blocks, whose tokens are concatenated")
    flags.add_number(group, "--epochs", 10, "of the training")
    flags.add_number(group, "--lr", 1e-3, "learning rate", kind=flags.above_zero, metavar="RATE")
    flags.add(group, "--seed", help="of the order")


def run(args: argparse.Namespace) -> Report:
    """Fits the layer to the training images and measures it on the others.

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
    head = fit_linear(frozen, train, epochs=args.epochs, learning_rate=args.lr, seed=args.seed)
    metrics = mean_iou.scores(count_classes(frozen, head, test))
    row = {"images": len(test), **metrics}
    about = settings(args, model)
    return Report("segmentation", about, metrics, [row], shared_images=shared)


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
