"""Semantic segmentation by the published protocols: a linear layer on frozen patches, mIoU.

What it measures: whether a patch token tells what its patch shows, as the papers report it. A
linear layer learns from random crops whose colours are distorted; test images are seen by windows
that slide over them. --protocol=dinov2: the last block, behind BatchNorm. dinov2-ms: the last four,
larger crops, tested at five scales and mirrored (the papers' "+ms"). dinov3: as dinov2, with
dropout and a cosine. ibot: blocks 4, 6, 8 and 12 of 12, no BatchNorm, 160,000 steps. Every number
of a protocol has a flag; docs/evaluations.md has the table.

Data: --layout=ade20k: DATA/images/{training,validation}/*.jpg and DATA/annotations/.../*.png
(ADEChallengeData2016). --layout=voc: DATA/JPEGImages, DATA/SegmentationClass and
DATA/ImageSets/Segmentation/{train,val}.txt (VOCdevkit/VOC2012); voc-aug: also
DATA/SegmentationClassAug and train_aug.txt. --layout=cityscapes: DATA/leftImg8bit and DATA/gtFine.

    python -m ibot_jax.evaluate segmentation --from=runs/mine --data=DATA --layout=ade20k
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ibot_jax.cli import flags
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.segmentation_data import LAYOUTS, Split, open_splits
from ibot_jax.evaluate.benchmarks.segmentation_pictures import Pictures, as_mask, colors
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops
from ibot_jax.evaluate.common.memory import check_images
from ibot_jax.evaluate.common.opening import open_model, open_rows, settings
from ibot_jax.evaluate.common.report import Report, determining
from ibot_jax.evaluate.features.patch_maps import concatenated, in_whole_patches
from ibot_jax.evaluate.measures import mean_iou
from ibot_jax.evaluate.probes import segmentation_training
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.evaluate.probes.rates import RATES
from ibot_jax.evaluate.probes.windows import decide_cells
from ibot_jax.files.paths import absolute_path
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model

_SWITCH = ("on", "off")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a published protocol says; each is a flag of the same name.

    Attributes:
      blocks: (number of blocks) -> those whose tokens are taken, counted from 1.
      last_norm: "on" where the backbone's last norm is applied to them, else "off".
      size: shorter side of images, pixels.
      ratios: the least and the largest by which it is multiplied in training.
      crop: side of crops and windows, pixels.
      stride: from one window to the next, pixels.
      scales: by which `size` is multiplied in testing.
      mirrored: "on" where test images are seen mirrored, too.
      steps: of the training.
      warmup: steps in which the learning rate rises.
      lr: the largest learning rate.
      schedule: how it falls.
      weight_decay: of AdamW.
    """

    blocks: Callable[[int], Sequence[int]] = lambda depth: (depth,)
    last_norm: str = "on"
    size: int = 512
    ratios: tuple[float, float] = (0.5, 2.0)
    crop: int = 512
    stride: int = 341
    scales: tuple[float, ...] = (1.0,)
    mirrored: str = "off"
    steps: int = 40_000
    warmup: int = 1500
    lr: float = 1e-3
    schedule: str = "linear"
    weight_decay: float = 1e-4


@dataclasses.dataclass(frozen=True)
class LinearProtocol(Protocol):
    """That of a linear layer.

    Attributes:
      batch_norm: "on" or "off", before the layer.
      clip: the largest norm of the gradients; 0 leaves them.
      dropout: share of features that are left out.
    """

    batch_norm: str = "on"
    clip: float = 0.0
    dropout: float = 0.0


def thirds(depth: int) -> tuple[int, ...]:
    """Returns the blocks that the original takes: 4, 6, 8 and 12 of 12."""
    return depth // 3, depth // 2, 2 * depth // 3, depth


PROTOCOLS = {
    "dinov2": LinearProtocol(),
    "dinov2-ms": LinearProtocol(
        blocks=lambda depth: range(depth - 3, depth + 1),
        size=640,
        ratios=(1.0, 3.0),
        crop=640,
        stride=320,
        scales=(1.0, 1.32, 1.73, 2.28, 3.0),
        mirrored="on",
    ),
    "dinov3": LinearProtocol(schedule="cosine", weight_decay=1e-3, clip=35.0, dropout=0.1),
    "ibot": LinearProtocol(
        blocks=thirds, batch_norm="off", steps=160_000, lr=8e-4, weight_decay=0.05
    ),
}
# Flags on which nothing that is trained depends.
_OF_TESTING = ("stride", "scales", "mirrored", "pictures", "protocol")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    add_data_arguments(parser)
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--protocol",
        default="dinov2",
        choices=tuple(PROTOCOLS),
        help="what the flags below are unless they are given (default: dinov2)",
    )
    add_protocol_arguments(group)
    switch = flags.one_of(_SWITCH)
    add_number(group, "--batch-norm", switch, "whether features are normalised by it", "on|off")
    add_number(group, "--clip", flags.not_negative, "largest norm of the gradients; 0: any", "NORM")
    add_number(group, "--dropout", flags.share, "share of features that are left out", "SHARE")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the model, the data and the pictures."""
    flags.add_model_options(parser)
    group = parser.add_argument_group("data")
    flags.add(group, "--data", metavar="DIR", help="see above")
    group.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="see above")
    flags.add(group, "--batch-size", default=16)
    flags.add_number(
        group, "--pictures", 0, "of the first N test images are written", kind=flags.natural
    )


def add_protocol_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds the flags of every `Protocol`."""
    flags.add(group, "--seed", help="of what is learned, the order and the crops")
    switch, schedule = flags.one_of(_SWITCH), flags.one_of(tuple(RATES))
    blocks = flags.sequence(flags.positive, once=False)  # UperNet takes four, of three as well
    for flag, kind, text, metavar in (
        ("--blocks", blocks, "whose tokens are taken, from 1", "N,..."),
        ("--last-norm", switch, "whether the backbone's last norm is applied to them", "on|off"),
        ("--size", flags.positive, "shorter side of images", "N"),
        ("--ratios", flags.sequence(flags.above_zero), "of it in training", "LEAST,MOST"),
        ("--crop", flags.positive, "side of crops and windows", "N"),
        ("--stride", flags.positive, "from one window to the next", "N"),
        ("--scales", flags.sequence(flags.above_zero), "of --size in testing", "SCALE,..."),
        ("--mirrored", switch, "whether test images are seen mirrored, too", "on|off"),
        ("--steps", flags.positive, "of the training", "N"),
        ("--warmup", flags.natural, "steps in which the learning rate rises", "N"),
        ("--lr", flags.above_zero, "largest learning rate", "RATE"),
        ("--schedule", schedule, "how it falls", "|".join(RATES)),
        ("--weight-decay", flags.not_negative, "of AdamW", "DECAY"),
    ):
        add_number(group, flag, kind, text, metavar)


def add_number(
    group: argparse._ArgumentGroup,
    flag: str,
    kind: Callable[[str], Any],
    text: str,
    metavar: str,
) -> None:
    """Adds a flag that is absent unless it is given, so that a 0 is told from what was not said."""
    group.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=text, metavar=metavar)


def run(args: argparse.Namespace) -> Report:
    """Trains a head on the training images and measures it on the others.

    Raises:
      UserError: for what the user can mend.
    """
    train, test, shared = open_splits(args)
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    settle(args, PROTOCOLS[args.protocol], model, len(train))
    crops = make_crops(args, model, mesh)
    setting = _setting(args, model, params, crops, mesh)
    about = settings(args, model)
    trained = segmentation_training.fit(setting, train, args.out, of_training(about))
    logits_fn = segmentation_training.make_logits_fn(setting)
    scores = measure(args, "segmentation", logits_fn, (trained, params), test, crops, mesh)
    row = {"protocol": args.protocol, "images": len(test), **scores}
    return Report("segmentation", about, scores, [row], shared_images=shared)


def reopen(
    args: argparse.Namespace,
    about: Mapping[str, Any],
    model: Model,
    params: Params,
    mesh: jax.sharding.Mesh,
) -> PixelModel:
    """Opens the head that `run` has trained.

    Args:
      args: the settled flags.
      about: the settings of the report.
      model: that --from names.
      params: its parameters, on all devices.
      mesh: the devices.

    Raises:
      UserError: if it is not there.
    """
    crops = make_crops(args, model, mesh)
    setting = _setting(args, model, params, crops, mesh)
    classes = len(LAYOUTS[args.layout].classes)
    trained = segmentation_training.trained(setting, classes, args.out, of_training(about))
    logits_fn = segmentation_training.make_logits_fn(setting)
    return pixel_model(args, logits_fn, (trained, params), crops, mesh)


def of_training(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings on which what is trained depends."""
    return determining(about, but=_OF_TESTING)


def _setting(
    args: argparse.Namespace, model: Model, params: Params, crops: Crops, mesh: jax.sharding.Mesh
) -> segmentation_training.Setting:
    return segmentation_training.Setting(
        patch_fn=make_patch_fn(
            model, [block - 1 for block in args.blocks], normalized=args.last_norm == "on"
        ),
        params=params,
        mesh=mesh,
        crops=crops,
        steps=args.steps,
        warmup=args.warmup,
        learning_rate=args.lr,
        schedule=args.schedule,
        weight_decay=args.weight_decay,
        clip=args.clip,
        dropout=args.dropout,
        batch_norm=args.batch_norm == "on",
        seed=args.seed,
    )


def settle(args: argparse.Namespace, protocol: Protocol, model: Model, images: int) -> None:
    """Gives `args` what a protocol says where flags say nothing.

    Raises:
      UserError: if it makes no sense for the model or the number of training images.
    """
    depth = model.geometry.depth
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        if field.name == "blocks":
            value = tuple(value(depth))
        if not hasattr(args, field.name):
            setattr(args, field.name, value)
    blocks = ",".join(map(str, args.blocks))
    if not 1 <= min(args.blocks) <= max(args.blocks) <= depth:
        raise UserError(f"--blocks={blocks} is not within the {depth} blocks of the model")
    if args.stride > args.crop:
        raise UserError(
            f"--stride={args.stride} is more than --crop={args.crop}: windows would leave gaps"
        )
    if images < args.batch_size:
        raise UserError(f"--batch-size={args.batch_size} is more than the {images} training images")


def make_crops(args: argparse.Namespace, model: Model, mesh: jax.sharding.Mesh) -> Crops:
    """Returns how images are seen in training, by settled flags.

    Raises:
      UserError: if there is no memory for them, or not all devices would get as many.
    """
    rows = open_rows(args, mesh)
    square = args.crop, args.crop
    height, width = np.add(square, model.geometry.missing(square)).tolist()
    named = f"--crop={args.crop} with --batch-size={args.batch_size}"
    check_images(named, len(rows), (height, width), model)
    return Crops(
        size=args.size,
        ratios=(min(args.ratios), max(args.ratios)),
        crop=args.crop,
        fill=np.round(255 * np.array(model.config.data.mean)).astype(np.uint8),
        decoding=Decoding.of(model.config.data),
        rows=rows,
    )


def measure(
    args: argparse.Namespace,
    task: str,
    logits_fn: segmentation_training.LogitsFn,
    params: Any,
    test: Split,
    crops: Crops,
    mesh: jax.sharding.Mesh,
) -> dict[str, float]:
    """Returns the scores of what was trained, by settled flags.

    Pictures go to OUT/TASK.
    """
    pictures = Pictures(absolute_path(args.out) / task, args.pictures, test, crops.decoding)
    counts = segmentation_training.measure(
        logits_fn, params, test, crops, _sizes(args), mesh, pictures.write
    )
    return mean_iou.scores(counts)


def pixel_model(
    args: argparse.Namespace,
    logits_fn: segmentation_training.LogitsFn,
    params: Any,
    crops: Crops,
    mesh: jax.sharding.Mesh,
) -> PixelModel:
    """Returns what was trained, by settled flags, ready to be used."""
    classes = len(LAYOUTS[args.layout].classes)

    def program(images: jax.Array) -> dict[str, jax.Array]:
        logits = logits_fn(jax.device_get(params), images)
        return {"logits": logits, "classes": decide_cells(logits, images.shape[1:3])}

    return PixelModel(
        finds="masks",
        values=f"the number of the class, 0 to {classes - 1} of {args.layout}",
        find=lambda images: segmentation_training.segment(
            logits_fn, params, images, crops, _sizes(args), mesh
        ),
        as_image=lambda found: as_mask(found, classes),
        as_colors=lambda found: colors(classes)[found],
        program=program,
        size=(args.crop, args.crop),
        takes=f"one window, of an image whose shorter side was resized to {args.size} pixels",
        gives=f"`logits` [B, h, w, {classes}] of cells and `classes` [B, H, W] of pixels, uint8",
    )


def _sizes(args: argparse.Namespace) -> segmentation_training.Sizes:
    return segmentation_training.Sizes(args.scales, args.mirrored == "on", args.stride)


def make_patch_fn(
    model: Model, wanted: Sequence[int], *, normalized: bool
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns (params, images [B, H, W, C] uint8) -> patch tokens of some blocks, [B, h, w, F].

    Blocks of other stages are brought to the finest grid of them, bilinearly.
    """

    def patches(params, images):
        images = in_whole_patches(model, images)
        layers = model.layers(params, images, wanted, normalized=normalized, floats="normalized")
        return concatenated([tokens.patches for tokens in layers])

    return patches
