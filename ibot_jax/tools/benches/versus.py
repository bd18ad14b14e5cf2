"""Times the training step beside the original's in PyTorch, in turns.

A process of its own, with a Python that has PyTorch (`--python`), runs `torch_step.py`, beside
this file: the same sizes, masks and dtype, in float32 or bfloat16, on the same device. Each round
times both, and the next one begins with the other, so that a machine that slows down slows both;
what counts is the ratio of a round. Colours of views belong to neither side's step here
(data.augment=host).
"""

import argparse

import jax
import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments
from ibot_jax.config.plan import peak_rate
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.tools.benches import step
from ibot_jax.tools.benches.lines import aligned
from ibot_jax.tools.benches.twin import (
    add_twin_arguments,
    backbone_spec,
    measure,
    refuse_other,
    rows,
    started,
)

# What the backbone in PyTorch has no other of.
BACKBONE = {
    "model.arch": "vit",
    "model.ffn": "mlp",
    "model.hidden_dim": 0,
    "model.positions": "learned",
    "model.registers": 0,
    "model.layer_scale": 0.0,
    "model.qkv_bias": "full",
    "model.qk_norm": False,
    "model.norm_kind": "layer",
    "data.channels": 3,
}
_ONLY = BACKBONE | {
    "method": "ibot",
    "model.drop_path_kind": "linear",
    "head.act": "gelu",
    "head.separate": False,
    "head.weight_norm": True,
    "loss.visible_weight": 0.0,
    "loss.kernel_weight": 0.0,
    "gram.weight": 0.0,
    "optim.name": "adamw",
    "optim.clip_by": "tensor",
    "optim.layer_decay": 1.0,
    "grad_accum_steps": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    flags.add(parser, "--batch-size", type=int, help="images a step, instead of the config's")
    add_twin_arguments(parser)
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    config = step.checked_config(args, devices=1)
    config.data.augment = "host"
    refuse_others(config)
    mesh = make_mesh(jax.devices()[:1])
    with step.memory_is_enough(config.batch_size):
        ready = step.get_ready(config, mesh)
        masks = np.swapaxes(np.stack(ready.masks), 1, 2)
        spec = torch_spec(config, args.style)
        with started(args.python, "torch_step.py", spec, {"masks": masks}) as twin:
            report = measure(ready.run, twin, rounds=args.rounds, steps=args.steps)
    report = {
        "config": " ".join([args.config, *args.overrides]),
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "style": args.style,
        **report,
    }
    print(aligned([("config", report["config"]), *rows(report)]))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def refuse_others(config: Section) -> None:
    """Refuses what the step in PyTorch does not compute.

    Raises:
      UserError: with the first such key.
    """
    refuse_other(config, _ONLY)
    prototypes = config.head.prototypes, config.head.patch_prototypes
    if prototypes[0] != prototypes[1]:
        raise UserError(f"head.patch_prototypes={prototypes[1]} are not head.prototypes' number")
    if config.head.shared != config.head.shared_teacher:
        raise UserError(f"head.shared_teacher={config.head.shared_teacher} is not head.shared")


def torch_spec(config: Section, style: str) -> dict:
    """Returns what `torch_step.Spec` holds, with schedules as they are at the start of a run."""
    head, loss, optim, data = (config[name] for name in ("head", "loss", "optim", "data"))
    return dict(
        **backbone_spec(config, style),
        batch_size=config.batch_size,
        local_size=list(data.local_size),
        global_views=data.global_views,
        local_views=data.local_views,
        hidden_dim=head.hidden_dim,
        bottleneck_dim=head.bottleneck_dim,
        prototypes=head.prototypes,
        shared=head.shared,
        norm_last_layer=head.norm_last_layer,
        class_weight=loss.class_weight,
        patch_weight=loss.patch_weight,
        student_temp=loss.student_temp,
        teacher_temp=loss.teacher_temp_start,
        teacher_patch_temp=loss.teacher_patch_temp_start,
        center_momentum=loss.center_momentum,
        lr=peak_rate(optim.lr, config.batch_size, optim.lr_scaling),
        weight_decay=optim.weight_decay,
        betas=list(optim.betas),
        clip=optim.clip,
        momentum=config.teacher_momentum,
    )
