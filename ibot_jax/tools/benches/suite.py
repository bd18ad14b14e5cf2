"""Measures all of a machine that is there for minutes, and writes a page of what it found.

Kernels, steps of each config at the largest batch that fits, these steps beside PyTorch's, the
input, and in what time is left a training. Each report is kept in --out as it is made: what an
interrupted call, or one that ran out of --minutes, has not done the next one does. --out then holds
the reports, `suite.json`, and `section.md` with its pictures. Devices of one kind alone belong into
one folder.
"""

import argparse
import functools
import itertools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

from ibot_jax.cli import exits, flags
from ibot_jax.errors import UserError
from ibot_jax.files.atomic import write_json
from ibot_jax.tools.suite import page, parts

_SIZES = ("vits16", "vitb16", "vitl16")
_MOST = 512  # images a step on one device: more fill it no better


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    flags.add(parser, "--out", required=True, help="folder of reports, page and pictures")
    parser.add_argument(
        "--minutes", type=flags.above_zero, default=8.0, help="time for this call (default: 8)"
    )
    parser.add_argument(
        "--configs",
        type=flags.sequence(str),
        default=_SIZES,
        help=f"whose steps are timed (default: {','.join(_SIZES)})",
    )
    flags.add(
        parser, "--batch-size", type=int, default=_MOST, help=f"the largest (default: {_MOST})"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps to time (default: 10)")
    flags.add(parser, "--dtype", default="bfloat16", help="of the steps")
    parser.add_argument(
        "--python", default="", metavar="PATH", help="a Python with PyTorch; none leaves it out"
    )
    flags.add(
        parser, "--data", required=False, help="images for input and training; none leaves them out"
    )
    parser.add_argument(
        "--train", default="cifar10:large", help="config of the training (default: cifar10:large)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    for name in ("batch_size", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(args, name)} is less than one")
    folder = pathlib.Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={args.out} cannot be made: {error.strerror}") from None
    clock = parts.Clock(60 * args.minutes)
    failed = measure(args, folder, clock)
    for name, error in failed.items():
        print(f"warning: {name}: {error}", file=sys.stderr)
    page.write(folder)
    print((folder / page.SECTION).read_text(), end="")
    return exits.FAILED if failed else exits.COMPLETE


def measure(args: argparse.Namespace, folder: pathlib.Path, clock: parts.Clock) -> dict[str, str]:
    """Runs what is not done yet; returns the errors of what failed, by name."""
    failed = {}
    for name, measurement in _measurements(args, folder, clock):
        out = folder / f"{name}.json"
        if out.exists():
            continue
        print(f"{name} ({clock.left / 60:.1f} min left)", file=sys.stderr, flush=True)
        try:
            measurement(out)
        except parts.OutOfTime:
            print(f"{name}: no time; call again to go on", file=sys.stderr)
        except parts.Failed as error:
            failed[name] = str(error)
    return failed


def _measurements(
    args: argparse.Namespace, folder: pathlib.Path, clock: parts.Clock
) -> Iterator[tuple[str, Callable[[pathlib.Path], None]]]:
    """Yields the name of each measurement and what makes its report, the most telling first."""

    def bench(*command: str):
        return lambda out: parts.run_bench(command, out, clock)

    def step(config: str, kernels: str, out: pathlib.Path) -> None:
        def at(batch: int) -> dict:
            command = ("step", f"--config={config}", f"--batch-size={batch}")
            overrides = (f"--config.dtype={args.dtype}", f"--config.model.kernels={kernels}")
            trial = out.with_suffix(".trial")
            return parts.run_bench((*command, f"--steps={args.steps}", *overrides), trial, clock)

        write_json(out, parts.step_at_largest_batch(at, args.batch_size))

    def versus(config: str, style: str, out: pathlib.Path) -> None:
        # Two programs share the device: each gets half of what one had.
        own = folder / f"step__{_slug(config)}__auto.json"
        batch = args.batch_size
        if own.exists():
            batch = max(1, page.read(own)["batch_size"] // 2)
        command = ("versus", f"--config={config}", f"--batch-size={batch}", f"--style={style}")
        options = (f"--python={args.python}", f"--config.dtype={args.dtype}")
        parts.run_bench((*command, *options), out, clock, shares_device=True)

    yield "check", bench("check")
    for config in args.configs:
        yield f"step__{_slug(config)}__auto", functools.partial(step, config, "auto")
    if args.python:
        for config, style in itertools.product(args.configs, ("best", "original")):
            yield f"versus__{_slug(config)}__{style}", functools.partial(versus, config, style)
    for config in args.configs:
        yield f"step__{_slug(config)}__xla", functools.partial(step, config, "xla")
    if args.data:
        yield "input", bench("input", f"--config={args.configs[0]}", f"--data={args.data}")
        overrides = [f"--config.data.source={args.data}"]
        yield (
            "training",
            lambda out: write_json(out, parts.train(args.train, overrides, folder / "run", clock)),
        )


def _slug(config: str) -> str:
    """Returns "digits-ibot" for "configs/digits.py:ibot"."""
    name = config.rpartition("/")[-1].replace(".py", "")
    return re.sub(r"[^\w.-]+", "-", name)
