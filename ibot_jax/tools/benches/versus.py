"""Times the training step beside the original's in PyTorch, in turns.

A process of its own, with a Python that has PyTorch (`--python`), runs `torch_step.py`, beside
this file: the same sizes, masks and dtype, in float32 or bfloat16, on the same device. Each round
times both, and the next one begins with the other, so that a machine that slows down slows both;
what counts is the ratio of a round. Colours of views belong to neither side's step here
(data.augment=host).
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from ibot_jax.cli import exits, flags
from ibot_jax.cli.config_file import add_config_arguments
from ibot_jax.config.flat import flatten
from ibot_jax.config.plan import peak_rate
from ibot_jax.config.section import Section
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.files.paths import absolute_path
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.tools.benches import lines, step
from ibot_jax.tools.benches.turns import in_turns

# What the step in PyTorch has no other of.
_ONLY = {
    "method": "ibot",
    "model.arch": "vit",
    "model.ffn": "mlp",
    "model.hidden_dim": 0,
    "model.positions": "learned",
    "model.registers": 0,
    "model.layer_scale": 0.0,
    "model.qkv_bias": "full",
    "model.qk_norm": False,
    "model.norm_kind": "layer",
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
    "data.channels": 3,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_config_arguments(parser)
    flags.add(parser, "--batch-size", type=int, help="images a step, instead of the config's")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both (default: 5)")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn (default: 3)")
    parser.add_argument(
        "--style",
        choices=("original", "best"),
        default="original",
        help="the original's code, or that with fused attention and AdamW and torch.compile",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="a Python with PyTorch (default: this one)",
    )
    flags.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    for name in ("rounds", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)} is less than one")
    config = step.checked_config(args, devices=1)
    config.data.augment = "host"
    refuse_others(config)
    mesh = make_mesh(jax.devices()[:1])
    with step.memory_is_enough(config.batch_size):
        ready = step.get_ready(config, mesh)
        with started(args.python, torch_spec(config, args.style), ready.masks) as twin:
            report = measure(ready, twin, rounds=args.rounds, steps=args.steps)
    report = {
        "config": " ".join([args.config, *args.overrides]),
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "style": args.style,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        **report,
    }
    print(table(report))
    if args.json:
        write_json(absolute_path(args.json), report)
    return exits.COMPLETE


def refuse_others(config: Section) -> None:
    """Refuses what the step in PyTorch does not compute.

    Raises:
      UserError: with the first such key.
    """
    flat = flatten(config)
    for key, value in _ONLY.items():
        if flat[key] != value:
            raise UserError(
                f"{key}={flat[key]!r} is none of the original's; only {value!r} is timed"
            )
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype={config.dtype!r} is not timed; use float32 or bfloat16")
    prototypes = config.head.prototypes, config.head.patch_prototypes
    if prototypes[0] != prototypes[1]:
        raise UserError(f"head.patch_prototypes={prototypes[1]} are not head.prototypes' number")
    if config.head.shared != config.head.shared_teacher:
        raise UserError(f"head.shared_teacher={config.head.shared_teacher} is not head.shared")


def torch_spec(config: Section, style: str) -> dict:
    """Returns what `torch_step.Spec` holds, with schedules as they are at the start of a run."""
    model, head, loss, optim, data = (
        config[name] for name in ("model", "head", "loss", "optim", "data")
    )
    return dict(
        style=style,
        dtype=config.dtype,
        batch_size=config.batch_size,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        patch_size=model.patch_size,
        mlp_ratio=model.mlp_ratio,
        drop_path=model.drop_path,
        global_size=list(data.global_size),
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


class Twin:
    """The process of the other side."""

    def __init__(self, process: subprocess.Popen, python: str):
        self._process, self._python = process, python
        self.described = self._answer()

    def run(self, steps: int) -> dict:
        """Runs steps; returns their `seconds` together, the last `loss`, and `peak_bytes`."""
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.stderr.read().strip().splitlines() or ["no word of why"]
            raise UserError(f"PyTorch's step by {self._python} failed: {errors[-1]}")
        return json.loads(line)


@contextlib.contextmanager
def started(python: str, spec: dict, masks: list[np.ndarray]) -> Iterator[Twin]:
    """Starts the other side, and ends it.

    Args:
      python: a Python with PyTorch.
      spec: see `torch_spec`.
      masks: of each batch, [B, G, h, w] bool.

    Raises:
      UserError: if it cannot start, or fails.
    """
    program = pathlib.Path(__file__).with_name("torch_step.py")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "spec.npz"
        np.savez(path, spec=json.dumps(spec), masks=np.swapaxes(np.stack(masks), 1, 2))
        try:
            process = subprocess.Popen(
                [python, program, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise UserError(f"--python={python} does not start: {error.strerror}") from None
        with process:
            try:
                yield Twin(process, python)
            finally:
                process.kill()


def measure(ready: step.Ready, twin: Twin, *, rounds: int, steps: int) -> dict:
    """Times both sides in turns.

    Returns:
      `ours` and `theirs`, seconds a step of each round; `ratio`, by how many times ours is the
      faster, of each round; `torch`, `torch_device`, `torch_threads` and `torch_peak_bytes`.
    """
    answer = {}

    def ours() -> float:
        start = time.perf_counter()
        ready.run(steps)
        return (time.perf_counter() - start) / steps

    def theirs() -> float:
        answer.update(twin.run(steps))
        return answer["seconds"] / steps

    ready.run(1)
    seconds = in_turns({"ours": ours, "theirs": theirs}, rounds)
    both = zip(seconds["ours"], seconds["theirs"], strict=True)
    return {
        **seconds,
        "ratio": [theirs / ours for ours, theirs in both],
        "torch": twin.described["torch"],
        "torch_device": twin.described["device"],
        "torch_threads": twin.described["threads"],
        "torch_peak_bytes": answer["peak_bytes"],
    }


def table(report: dict) -> str:
    """Returns the lines that show a report."""
    batch = report["batch_size"]
    return lines.aligned(
        [
            ("config", report["config"]),
            ("batch", f"{batch} images, {report['dtype']}"),
            (
                f"here, JAX {report['jax']} on {report['device']}",
                lines.speed(batch, report["ours"]),
            ),
            (
                f"{report['style']}, PyTorch {report['torch']} on {report['torch_device']}, "
                f"{report['torch_threads']} thread(s)",
                lines.speed(batch, report["theirs"]),
            ),
            ("ratio", lines.ratio(report["ratio"])),
        ]
    )
