"""What a trained model can do, one task after the other.

    python -m ibot_jax.evaluate TASK --from=PATH --data=SOURCE [...]
    python -m ibot_jax.evaluate TASK --help

PATH is a run's workdir, one of its checkpoints, or an export. Each task prints a table and writes
the same as JSON and for TensorBoard. On several hosts, start it on each, as ibot_jax.main.

Tasks:
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any import that reads it

from ibot_jax.cli import subcommands
from ibot_jax.cli.command_line import exit_status, leave

# Where each is, see `subcommands`; `run(args)` returns a `Report`.
TASKS = {
    name: f"ibot_jax.evaluate.tasks.{name}"
    for name in (
        "knn",
        "linear",
        "attentive",
        "logistic",
        "fewshot",
        "finegrained",
        "cluster",
        "retrieval",
        "instances",
        "davis",
        "segmentation",
        "incontext",
        "depth",
        "correspondence",
        "spair",
        "discovery",
        "robustness",
        "copydetection",
    )
}
TASKS["finetune"] = "ibot_jax.finetune.task"
TASKS["upernet"] = "ibot_jax.finetune.upernet_task"

# Runs tasks; `run(args, tasks)` returns an exit status.
SUITE = {"suite": "ibot_jax.evaluate.suite.command"}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int | None:
    commands = TASKS | SUITE
    parsed = subcommands.parse(argv, "ibot_jax.evaluate", commands, noun="task", doc=__doc__)
    if parsed is None:
        return None
    module, parser, args = parsed
    # Here, for they import jax: no mistake waits for that.
    from ibot_jax.evaluate.common.running import NO_MATTER, evaluate
    from ibot_jax.parallel import agreement, distributed

    distributed.join(args.coordinator_address, args.num_processes, args.process_id)
    given = {key: value for key, value in vars(args).items() if key not in NO_MATTER}
    agreement.require_same(
        json.dumps(given, default=lambda odd: type(odd).__name__), "command line"
    )
    if argv[0] in SUITE:
        return module.run(args, TASKS)
    evaluate(module, parser, args)
    return None


if __name__ == "__main__":
    leave(main())
