"""What a trained model sees, one figure after the other.

    python -m ibot_jax.visualize FIGURE --from=PATH --data=IMAGES --out=FILE [...]
    python -m ibot_jax.visualize FIGURE --help

PATH is a run's workdir, one of its checkpoints, or an export. IMAGES are files, a folder, or any
source that training reads (digits, folder:PATH, tfds:NAME). Images that cannot be read are named
and skipped.

Figures:
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

from ibot_jax.cli import subcommands
from ibot_jax.cli.command_line import exit_status, leave

# Where each is, see `subcommands`; `run(args)` draws, writes and says what it wrote.
FIGURES = {
    name: f"ibot_jax.visualize.{name}"
    for name in ("attention", "patterns", "correspondence", "pca", "report")
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> None:
    parsed = subcommands.parse(
        argv,
        "ibot_jax.visualize",
        FIGURES,
        noun="figure",
        doc=__doc__,
        former={"--images": "--data"},
    )
    if parsed is not None:
        module, _, args = parsed
        module.run(args)


if __name__ == "__main__":
    leave(main())
