"""Where results go: beside what was evaluated, so that no two models meet.

WORKDIR/evaluations/STEP/             of a run, and of one of its checkpoints
FOLDER/evaluations/NAME/              of an export, FOLDER/NAME
.../STEP-student/, .../STEP-random/   of other weights
"""

import argparse

from ibot_jax.errors import UserError
from ibot_jax.files.paths import absolute_path
from ibot_jax.weights.checkpoints import find_workdir
from ibot_jax.weights.finetuned import settle_step
from ibot_jax.weights.formats import is_exported_folder

_FOLDER = "evaluations"


def settle(args: argparse.Namespace) -> None:
    """Says in `args` which step is meant, of a run, and where the outcome goes, if flags do not.

    A run may go on meanwhile: its latest step is that of now.

    Raises:
      UserError: if there is no such model or step.
    """
    path = absolute_path(args.source)
    if not path.exists():
        raise UserError(
            f"{args.source} does not exist; give a run's workdir, a checkpoint or an export"
        )
    home, name = path.parent, path.name
    workdir, step = find_workdir(path, args.step)
    if (workdir / "checkpoints").is_dir() and not is_exported_folder(path):
        home, name = workdir, str(settle_step(workdir, step, args.weights))
        args.step = name
    if args.out is None:
        suffix = "" if args.weights == "teacher" else f"-{args.weights}"
        args.out = str(home / _FOLDER / f"{name}{suffix}")
