"""Measures how fast this machine trains and evaluates.

    python -m ibot_jax.tools.bench step --config=configs/vitb16.py --batch=64
    python -m ibot_jax.tools.bench input --config=configs/vitb16.py --data=folder:PATH

    python -m ibot_jax.tools.bench knn --train=1281167 --test=50000 --width=384

`step` is the training step on its own, on the devices; `input` the making of batches, on the host;
`knn` the search for nearest neighbours, among made features; `shrink` what decoding images smaller
than they are costs in sharpness, and saves; `checksums` what those of a checkpoint cost.
`--help` after them tells their options; what they find is printed, and written with `--json=FILE`.
Exit code 0; 1 when a loss is not finite or too many images cannot be read; 2 for a mistake in the
command line or config.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import importlib

from ibot_jax.cli.command_line import OneLineParser, exit_status, leave

# Each one is the module bench_COMMAND, with add_arguments(parser) and run(arguments), and is
# imported alone: not every machine has what the others need.
_COMMANDS = ("checksums", "input", "knn", "shrink", "step")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    program = "python -m ibot_jax.tools.bench"
    parser = OneLineParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=_COMMANDS, help="followed by --help, tells its options")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(argv)
    module = importlib.import_module(f"ibot_jax.tools.bench_{chosen.command}")
    parser = OneLineParser(
        prog=f"{program} {chosen.command}",
        description=module.__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    arguments, overrides = parser.parse_known_args(chosen.options)
    arguments.overrides = overrides  # --config.KEY=VALUE, which argparse cannot know
    return module.run(arguments)


if __name__ == "__main__":
    leave(main())
