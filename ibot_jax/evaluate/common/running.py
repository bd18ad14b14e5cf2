"""One task, from its parsed flags to its published report."""

import argparse
from types import ModuleType

from ibot_jax.cli.command_line import OneLineParser
from ibot_jax.evaluate.common.report import Report
from ibot_jax.evaluate.common.results import settle
from ibot_jax.files.paths import absolute_path, require_writable
from ibot_jax.parallel import agreement

# Flags that no outcome depends on.
NO_MATTER = frozenset(
    {"out", "cache", "workers", "coordinator_address", "num_processes", "process_id"}
)


def evaluate(module: ModuleType, parser: OneLineParser, args: argparse.Namespace) -> Report:
    """Runs a task and publishes what it found.

    Args:
      module: of the task, with `run(args)`, which returns a `Report`.
      parser: of its flags.
      args: its flags; --step and --out become what they are.

    Raises:
      UserError: for what the user can mend; that nothing can be written is told before the task
        begins.
    """
    with agreement.same_end():  # told now, and not when all has been computed
        settle(args)
        require_writable(absolute_path(args.out), "--out")
    agreement.require_same(f"{args.step} {args.out}", "--step or --out")
    report = module.run(args)
    with agreement.same_end():  # who leaves before the first process has written ends it
        flags = parser.written_out(args, NO_MATTER)
        report.publish(args.out, ["python", "-m", "ibot_jax.evaluate", report.task, *flags])
    return report
