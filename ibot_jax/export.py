"""Exports the trained backbone, for programs that know nothing of ibot_jax.

    python -m ibot_jax.export --from=RUN --to=orbax|npz|safetensors --out=PATH
        [--step=N|latest|best] [--weights=teacher|student] [--head] [--overwrite]

    orbax        PATH/params, an Orbax checkpoint of {"backbone": ..., "head": ...}, and, written
                 last, PATH/config.json
    npz          arrays by "backbone/blocks_0/attn/qkv/kernel", and the config as text, "config"
    safetensors  tensors by "backbone.blocks_0.attn.qkv.kernel", the config in the metadata

The config is what the model needs besides its parameters, as JSON: see `describe`. A model card is
written with it, PATH/README.md or PATH.md. All is written under a temporary name first; what has
its own name is whole. Formats of other projects: `python -m ibot_jax.convert`.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import inspect

import jax

from ibot_jax.cli.command_line import OneLineParser, exit_status, leave
from ibot_jax.cli.flags import add
from ibot_jax.weights.export import export
from ibot_jax.weights.write import OWN_FORMATS


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    jax.config.update("jax_platforms", "cpu")  # the accelerator may be the run's
    return exit_status(lambda: _export(_parse(argv)))


def _export(args: argparse.Namespace) -> None:
    print(
        inspect.unwrap(export)(  # whose errors name flags
            args.source,
            args.out,
            to=args.to,
            step=args.step,
            weights=args.weights,
            head=args.head,
            overwrite=args.overwrite,
            license_id=args.license,
            reports=args.report,
        )
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m ibot_jax.export",
        description=__doc__.splitlines()[0],
        former={"--workdir": "--from"},
    )
    add(parser, "--from", metavar="RUN", help="workdir of a run or a fine-tuning, or a checkpoint")
    parser.add_argument("--to", required=True, choices=OWN_FORMATS, help="format")
    add(parser, "--out", help="a folder (orbax) or a file")
    add(parser, "--step", "--weights", "--head", "--overwrite", "--license", "--report")
    return parser.parse_args(argv)


if __name__ == "__main__":
    leave(main())
