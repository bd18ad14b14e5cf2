"""What a trained model can do, one task after the other.

    python -m ibot_jax.evaluate TASK --from=PATH --data=SOURCE [...]
    python -m ibot_jax.evaluate TASK --help

PATH is a run's workdir, one of its checkpoints, or an export. Each task prints a table and writes
the same as JSON and for TensorBoard. On several hosts, start it on each, as ibot_jax.main. Exit
status: 0; 1 if it cannot go on, 2 for a mistake, 130 for Ctrl-C, 143 for SIGTERM.

Tasks:
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
# flags, and `run(args)` returns a `Report`.
TASKS = (
    "knn",
    "linear",
    "logistic",
    "cluster",
    "finetune",
    "retrieval",
    "davis",
    "segmentation",
    "robustness",
    "copydetection",
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    quieten_libraries()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except (UserError, OSError) as error:  # an OSError names what cannot be read
        print_error(error)
        return 2
    except TrainingError as error:
        print_error(error)
        from ibot_jax import distributed

        distributed.leave_failed()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__ + "\n".join(f"  {task:14}{_summary(task)}" for task in TASKS))
        return 0
    task, *flags = argv
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
    args, unknown = parser.parse_known_args(flags)
    if "config" in args:
        args.overrides = unknown  # --config.KEY=VALUE, which argparse cannot know
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    from ibot_jax import agreement, distributed  # which import jax: no mistake waits for that
    from ibot_jax.evaluate.options import output_folder

    distributed.join(args.coordinator_address, args.num_processes, args.process_id)
    report = module.run(args)
    with agreement.same_end():  # who leaves before the first process has written ends it
        report.publish(output_folder(args))
    return 0


def _summary(task: str) -> str:
    """Returns the first line of a task's docstring, without importing what the task needs."""
    source = pathlib.Path(__file__).with_name(f"{task}.py").read_text()
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
