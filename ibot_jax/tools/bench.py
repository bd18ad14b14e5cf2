"""Measures how fast this machine trains and evaluates.

    python -m ibot_jax.tools.bench check
    python -m ibot_jax.tools.bench step --config=configs/vitb16.py --batch-size=64
    python -m ibot_jax.tools.bench versus --config=configs/vits16.py --batch-size=4 --python=PYTHON
    python -m ibot_jax.tools.bench segmentation --config=configs/vits16.py --python=PYTHON
    python -m ibot_jax.tools.bench suite --out=DIR --minutes=8
    python -m ibot_jax.tools.bench input --config=configs/vitb16.py --data=folder:PATH
    python -m ibot_jax.tools.bench features --config=configs/vitb16.py --data=folder:PATH
    python -m ibot_jax.tools.bench kinds --config=configs/vitb16.py --data=folder:PATH
    python -m ibot_jax.tools.bench start --config=configs/digits.py
    python -m ibot_jax.tools.bench sources --number=1000000
    python -m ibot_jax.tools.bench knn --train=1281167 --test=50000 --width=384

`--help` after a measurement tells its options; what it finds is printed, and written with
--json=FILE. It fails when a kernel deviates from its definition, a loss is not finite or too many
images cannot be read.

Measurements:
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import sys

from ibot_jax.cli import subcommands
from ibot_jax.cli.command_line import exit_status, leave

# Where each is, see `subcommands`; `run(args)` measures, prints and returns the exit status.
COMMANDS = {
    name: f"ibot_jax.tools.benches.{name}"
    for name in (
        "check",
        "step",
        "versus",
        "suite",
        "input",
        "features",
        "segmentation",
        "kinds",
        "start",
        "sources",
        "knn",
        "shrink",
        "checksums",
    )
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int | None:
    parsed = subcommands.parse(
        argv,
        "ibot_jax.tools.bench",
        COMMANDS,
        noun="measurement",
        doc=__doc__,
        former={"--batch": "--batch-size", "--images": "--number"},
    )
    if parsed is not None:
        module, _, args = parsed
        return module.run(args)


if __name__ == "__main__":
    leave(main())
