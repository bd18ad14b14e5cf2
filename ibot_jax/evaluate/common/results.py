"""Where results go: beside what was evaluated, so that no two models meet.

WORKDIR/evaluations/STEP/             of a run, and of one of its checkpoints
FOLDER/evaluations/NAME/              of an export, FOLDER/NAME
.../STEP-student/, .../STEP-random/   of other weights
"""

import argparse

from ibot_jax.weights.find import find

_FOLDER = "evaluations"


def settle(args: argparse.Namespace) -> None:
    """Says in `args` which step is meant, of a run, and where the outcome goes, if flags do not.

    A run may go on meanwhile: its latest step is that of now.

    Raises:
      UserError: if there is no such model or step.
    """
    source = find(args.source, args.step)
    home, name = source.place.parent, source.place.name
    if source.has_checkpoints:
        step, _ = source.checkpoint(source.part(args.weights))
        home, name = source.place, str(step)
        args.step = name
    if args.out is None:
        suffix = "" if args.weights == "teacher" else f"-{args.weights}"
        args.out = str(home / _FOLDER / f"{name}{suffix}")
