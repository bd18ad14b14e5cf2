"""Times the training step of a linear segmentation head beside a plain one in PyTorch, in turns.

Ours is the step of `python -m ibot_jax.evaluate segmentation`: a frozen backbone, patches of the
protocol's blocks, BatchNorm where it has that, a linear layer, and the cross-entropy of every pixel
of a crop. Crops lie on the device already. The other one is `torch_segmentation.py`, in a process
of its own with a Python that has PyTorch (`--python`), in turns with ours as in `bench versus`.
"""

import argparse

import jax
import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments, given_config
from ibot_jax.config.section import Section
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.segmentation_data import LAYOUTS
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops
from ibot_jax.evaluate.probes.segmentation_training import Setting, make_step, start
from ibot_jax.evaluate.tasks.segmentation import PROTOCOLS, LinearProtocol, make_patch_fn
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.rows import rows_of_process, to_global
from ibot_jax.runs.check import check_config
from ibot_jax.tools.benches.lines import aligned
from ibot_jax.tools.benches.step import memory_is_enough
from ibot_jax.tools.benches.twin import (
    add_twin_arguments,
    backbone_spec,
    measure,
    refuse_other,
    rows,
    started,
)
from ibot_jax.tools.benches.versus import BACKBONE
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

_BATCHES = 2  # different ones, taken in turns
_CLASSES = len(LAYOUTS["ade20k"].classes)
# Those that neither leave features out nor cut gradients.
_PROTOCOLS = {name: p for name, p in PROTOCOLS.items() if not (p.dropout or p.clip)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    flags.add(parser, "--batch-size", default=16)
    parser.add_argument(
        "--protocol",
        default="dinov2",
        choices=tuple(_PROTOCOLS),
        help="whose blocks, norms and rates are taken (default: dinov2)",
    )
    parser.add_argument(
        "--crop", type=flags.positive, metavar="N", help="side of crops (default: the protocol's)"
    )
    add_twin_arguments(parser)
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config, protocol = given_config(args), _PROTOCOLS[args.protocol]
    config.knn.every = ""  # nothing is trained, nor checked for it
    check_config(config)
    refuse_other(config, BACKBONE)
    model, params = untrained(Model(config, args.config))
    crop = args.crop or protocol.crop
    if model.geometry.missing((crop, crop)) != (0, 0):
        raise UserError(f"--crop={crop} is no multiple of the patch size, {model.geometry.stride}")
    mesh = make_mesh(jax.devices()[:1])
    setting = make_setting(protocol, model, params, crop, args.batch_size, mesh)
    batches = draw(args.batch_size, crop)
    with memory_is_enough(args.batch_size):
        ours = Ours(setting, batches)
        spec = torch_spec(config, protocol, args.style)
        with started(args.python, "torch_segmentation.py", spec, batches) as twin:
            report = measure(ours.run, twin, rounds=args.rounds, steps=args.steps)
    report = {
        "config": " ".join([args.config, *args.overrides]),
        "protocol": args.protocol,
        "crop": crop,
        "classes": _CLASSES,
        "batch_size": args.batch_size,
        "dtype": config.dtype,
        "style": args.style,
        **report,
    }
    head = f"{args.protocol}, crops of {crop} pixels, {_CLASSES} classes"
    print(aligned([("config", report["config"]), ("head", head), *rows(report)]))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def make_setting(
    protocol: LinearProtocol,
    model: Model,
    params,
    crop: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> Setting:
    """Returns a protocol's training, with the rate at its peak from the first step on."""
    blocks = [block - 1 for block in protocol.blocks(model.geometry.depth)]
    return Setting(
        patch_fn=make_patch_fn(model, blocks, normalized=protocol.last_norm == "on"),
        params=jax.device_put(params, replicated(mesh)),
        mesh=mesh,
        crops=Crops(
            size=protocol.size,
            ratios=protocol.ratios,
            crop=crop,
            fill=np.zeros(model.config.data.channels, np.uint8),
            decoding=Decoding.of(model.config.data),
            rows=rows_of_process(mesh, batch_size),
        ),
        steps=protocol.steps,
        warmup=0,
        learning_rate=protocol.lr,
        schedule=protocol.schedule,
        weight_decay=protocol.weight_decay,
        clip=protocol.clip,
        dropout=protocol.dropout,
        batch_norm=protocol.batch_norm == "on",
        seed=0,
    )


def draw(batch_size: int, crop: int) -> dict[str, np.ndarray]:
    """Draws `images` [S, B, H, W, 3] and `labels` [S, B, H, W], uint8, of S batches."""
    rng = np.random.default_rng(0)
    shape = _BATCHES, batch_size, crop, crop
    return {
        "images": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "labels": rng.integers(0, _CLASSES, shape, dtype=np.uint8),
    }


class Ours:
    """The training here: its state, and its batches on the device."""

    def __init__(self, setting: Setting, batches: dict[str, np.ndarray]):
        self.state = jax.device_put(start(setting, _CLASSES), replicated(setting.mesh))
        self._step = make_step(setting)
        self._batches = [
            to_global({name: array[number] for name, array in batches.items()}, setting.mesh)
            for number in range(_BATCHES)
        ]

    def run(self, steps: int) -> None:
        """Runs steps, all with the first one's rate, and waits for them."""
        for number in range(steps):
            self.state = self._step(self.state, self._batches[number % _BATCHES], 0)
        jax.block_until_ready(self.state)


def torch_spec(config: Section, protocol: LinearProtocol, style: str) -> dict:
    """Returns what `torch_segmentation.Spec` holds."""
    data = config.data
    return dict(
        **backbone_spec(config, style) | {"drop_path": 0.0},
        mean=list(data.mean),
        std=list(data.std),
        blocks=[block - 1 for block in protocol.blocks(config.model.depth)],
        last_norm=protocol.last_norm == "on",
        batch_norm=protocol.batch_norm == "on",
        classes=_CLASSES,
        lr=protocol.lr,
        weight_decay=protocol.weight_decay,
    )
