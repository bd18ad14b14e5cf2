"""Semantic segmentation with UperNet: the whole backbone is trained, mIoU.

What it measures: what the model is worth as a start for segmentation, as the original reports it
(paper, section 4.2). Tokens of blocks 4, 6, 8 and 12 of 12 become maps of four scales (enlarged
four times and twice, as they are, half as large; a Swin's stages as they are), on which UperNet
stands, with an auxiliary head on the third. Views, windows and schedule are those of
`segmentation --protocol=ibot`; AdamW's learning rate falls from layer to layer. The rates are the
original's for ViT-B/16; for ViT-S/16 it has --lr=3e-5 --layer-decay=0.9.

Data: as of `segmentation`.

    python -m ibot_jax.evaluate upernet --from=runs/mine --data=DATA --layout=ade20k
"""

import argparse
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax

from ibot_jax.cli import flags
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.segmentation_data import LAYOUTS, open_splits
from ibot_jax.evaluate.common.opening import open_model, settings
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.probes.pixel_model import PixelModel
from ibot_jax.evaluate.tasks import segmentation
from ibot_jax.finetune import upernet_training
from ibot_jax.finetune.upernet_training import Segmenter
from ibot_jax.models.parameters import Params
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.model import Model

_MAPS = 4  # that UperNet takes


@dataclasses.dataclass(frozen=True)
class UperNetProtocol(segmentation.Protocol):
    """That of the original.

    Attributes:
      layer_decay: of the learning rate from each layer to the one below it.
      drop_path: stochastic depth of the last block.
    """

    layer_decay: float = 0.65
    drop_path: float = 0.1


PROTOCOL = UperNetProtocol(blocks=segmentation.thirds, steps=160_000, lr=8e-5, weight_decay=0.05)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the task."""
    segmentation.add_data_arguments(parser)
    group = parser.add_argument_group("protocol")
    segmentation.add_protocol_arguments(group)
    segmentation.add_number(
        group, "--layer-decay", flags.share, "of the rate, layer by layer", "SHARE"
    )
    segmentation.add_number(group, "--drop-path", flags.share, "stochastic depth", "SHARE")


def run(args: argparse.Namespace) -> Report:
    """Trains a model on the training images and measures it on the others.

    Raises:
      UserError: for what the user can mend.
    """
    train, test, shared = open_splits(args)
    mesh = make_mesh()
    model, params = open_model(args, mesh)
    stages = model.geometry.depths
    if len(stages) > 1 and not hasattr(args, "blocks"):
        args.blocks = tuple(itertools.accumulate(stages))
    segmentation.settle(args, PROTOCOL, model, len(train))
    if len(args.blocks) != _MAPS:
        raise UserError(
            f"--blocks={','.join(map(str, args.blocks))} are {len(args.blocks)}, and UperNet takes "
            f"{_MAPS}"
        )
    crops = segmentation.make_crops(args, model, mesh)
    segmenter = _segmenter(args, model)
    start = segmenter.start(params, model.config.data.global_size, jax.random.key(args.seed))
    setting = upernet_training.Setting(
        mesh=mesh,
        crops=crops,
        steps=args.steps,
        warmup=args.warmup,
        learning_rate=args.lr,
        schedule=args.schedule,
        weight_decay=args.weight_decay,
        layer_decay=args.layer_decay,
        drop_path=args.drop_path,
        seed=args.seed,
    )
    about = settings(args, model)
    of_training = segmentation.of_training(about)
    learned = upernet_training.fit(segmenter, setting, start, train, args.out, of_training)
    scores = segmentation.measure(args, "upernet", segmenter.logits, learned, test, crops, mesh)
    row = {"images": len(test), **scores}
    return Report("upernet", about, scores, [row], shared_images=shared)


def reopen(
    args: argparse.Namespace,
    about: Mapping[str, Any],
    model: Model,
    params: Params,
    mesh: jax.sharding.Mesh,
) -> PixelModel:
    """Opens the model that `run` has trained.

    Args:
      args: the settled flags.
      about: the settings of the report.
      model: that --from names.
      params: its parameters, from which the training started.
      mesh: the devices.

    Raises:
      UserError: if it is not there.
    """
    segmenter = _segmenter(args, model)
    start = segmenter.start(params, model.config.data.global_size, jax.random.key(args.seed))
    learned = upernet_training.trained(
        start, args.steps, args.out, segmentation.of_training(about), mesh
    )
    crops = segmentation.make_crops(args, model, mesh)
    return segmentation.pixel_model(args, segmenter.logits, learned, crops, mesh)


def _segmenter(args: argparse.Namespace, model: Model) -> Segmenter:
    return Segmenter.of(
        model,
        args.crop,
        [block - 1 for block in args.blocks],
        len(LAYOUTS[args.layout].classes),
        normalized=args.last_norm == "on",
    )
