"""What a trained model can do, one task after the other.

    python -m ibot_jax.evaluate TASK --from=PATH --data=SOURCE [...]
    python -m ibot_jax.evaluate TASK --help

PATH is a run's workdir, one of its checkpoints, or an export. Each task prints a table and writes
the same as JSON and for TensorBoard. Exit status: 0, or 2 for a mistake.

Tasks:
"""

import argparse
import ast
import importlib
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

from absl import logging as absl_logging

from ibot_jax.command_line import OneLineParser
from ibot_jax.errors import UserError

TASKS: tuple[str, ...] = ()  # each a module beside this one


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # errors of Orbax's threads are raised, too
    argv = sys.argv[1:] if argv is None else argv
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(__doc__ + "\n".join(f"  {task:14}{_summary(task)}" for task in TASKS))
            return 0
        task = argv[0]
        if task not in TASKS:
            raise UserError(f"{task!r} is no task; there are {', '.join(TASKS)}")
        module = importlib.import_module(f"ibot_jax.evaluate.{task}")
        parser = OneLineParser(
            prog=f"python -m ibot_jax.evaluate {task}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        args = parser.parse_args(argv[1:])
        module.run(args).publish(args.out)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _summary(task: str) -> str:
    """Returns the first line of a task's docstring, without importing what the task needs."""
    source = pathlib.Path(__file__).with_name(f"{task}.py").read_text()
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
