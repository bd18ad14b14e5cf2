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
        "logistic",
        "cluster",
        "retrieval",
        "davis",
        "segmentation",
        "depth",
        "correspondence",
        "robustness",
        "copydetection",
    )
}
TASKS["finetune"] = "ibot_jax.finetune.task"

# Flags that no outcome depends on.
_NO_MATTER = {"out", "cache", "workers", "coordinator_address", "num_processes", "process_id"}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return exit_status(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> None:
    parsed = subcommands.parse(argv, "ibot_jax.evaluate", TASKS, noun="task", doc=__doc__)
    if parsed is None:
        return
    module, parser, args = parsed
    # Here, for they import jax: no mistake waits for that.
    from ibot_jax.evaluate.common.results import settle
    from ibot_jax.files.paths import absolute_path, require_writable
    from ibot_jax.parallel import agreement, distributed

    distributed.join(args.coordinator_address, args.num_processes, args.process_id)
    given = {key: value for key, value in vars(args).items() if key not in _NO_MATTER}
    agreement.require_same(
        json.dumps(given, default=lambda odd: type(odd).__name__), "command line"
    )
    with agreement.same_end():  # told now, and not when all has been computed
        settle(args)
        require_writable(absolute_path(args.out), "--out")
    agreement.require_same(f"{args.step} {args.out}", "--step or --out")
    report = module.run(args)
    with agreement.same_end():  # who leaves before the first process has written ends it
        flags = parser.written_out(args, _NO_MATTER)
        report.publish(args.out, ["python", "-m", "ibot_jax.evaluate", report.task, *flags])


if __name__ == "__main__":
    leave(main())
