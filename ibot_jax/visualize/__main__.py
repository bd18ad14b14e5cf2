"""What a trained model sees, one figure after the other.

    python -m ibot_jax.visualize FIGURE --from=PATH --images IMAGES --out=FILE [...]
    python -m ibot_jax.visualize FIGURE --help

PATH is a run's workdir, one of its checkpoints, or an export. IMAGES are files, a folder, or any
source that training reads (digits, folder:PATH, tfds:NAME). Images that cannot be read are named
and skipped. Exit status: 0; 1 if it cannot go on, 2 for a mistake, 130 for
Ctrl-C.

Figures:
"""

import argparse
import ast
import importlib
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

from ibot_jax.command_line import OneLineParser, print_error, quieten_libraries
from ibot_jax.errors import TrainingError, UserError

# Each is a module beside this one: its docstring is the help, `add_arguments(parser)` adds its
# flags, and `run(args)` draws, writes and says what it wrote.
FIGURES = ("attention", "patterns", "correspondence", "pca", "report")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    quieten_libraries()
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except (UserError, OSError) as error:  # an OSError names what cannot be read
        print_error(error)
        return 2
    except TrainingError as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__ + "\n".join(f"  {figure:16}{_summary(figure)}" for figure in FIGURES))
        return
    figure, *flags = argv
    if figure not in FIGURES:
        raise UserError(f"{figure!r} is no figure; there are {', '.join(FIGURES)}")
    module = importlib.import_module(f"ibot_jax.visualize.{figure}")
    parser = OneLineParser(
        prog=f"python -m ibot_jax.visualize {figure}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    module.run(parser.parse_args(flags))


def _summary(figure: str) -> str:
    """Returns the first line of a figure's docstring, without importing what the figure needs."""
    source = pathlib.Path(__file__).with_name(f"{figure}.py").read_text()
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
