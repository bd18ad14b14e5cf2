"""Replays recordings of original programs, and prints how far this project is from them.

    python -m ibot_jax.tools.replay FILE.npz [FILE.npz ...] [--tolerance=X]

A file's own settings and names say what it is: a run, every step of which is done again by the step
function that `ibot_jax.main` runs; a backbone's outputs; accuracies of k-NN; operations on images.
`tools/replaying/` has a file for each kind, which says what such a recording holds. All is computed
in float64. Deviations are the largest difference relative to the largest recorded value.

Exit status: 0 if all of every file is within its tolerance; 1 if something is not; otherwise 2, if
a file cannot be read, or is of a kind, method or architecture that is not there yet.
"""

from ibot_jax.parallel import signals
from ibot_jax.screen.progress import busy

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import argparse
import dataclasses
import math

import jax

from ibot_jax.cli import exits
from ibot_jax.cli.command_line import OneLineParser, exit_status, leave, print_error
from ibot_jax.errors import UserError
from ibot_jax.tools.replaying.kinds import kind_of
from ibot_jax.tools.replaying.recording import Deviation, Recording


def main(argv: list[str] | None = None) -> int:
    """Replays the files that the command line names; returns the exit code."""
    return exit_status(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = OneLineParser(prog="python -m ibot_jax.tools.replay", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.npz", help="a recording")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="of every quantity (default: each has its own, which the table shows)",
    )
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    statuses = {_replay(path, args.tolerance) for path in args.files}
    return next(x for x in (exits.FAILED, exits.MISTAKE, exits.COMPLETE) if x in statuses)


def _replay(path: str, tolerance: float | None) -> int:
    """Replays one file, and prints its table; returns its exit status."""
    try:
        recording = Recording(path)
        kind = kind_of(recording)
        with busy(f"replaying {path}"):
            deviations = list(kind.replay(recording))
    except UserError as error:
        print_error(error)
        return exits.MISTAKE
    if tolerance is not None:
        deviations = [dataclasses.replace(found, tolerance=tolerance) for found in deviations]
    print(f"{path}: {kind.title}")
    for setting in kind.unknown(recording):
        print(f"note: {setting} is not known here; the deviations tell whether it matters")
    _print_table(deviations)
    return exits.COMPLETE if all(found.within for found in deviations) else exits.FAILED


def _print_table(deviations: list[Deviation]) -> None:
    width = max(len(found.quantity) for found in deviations)
    print(f"  {'':{width}}  deviation  tolerance")
    for found in deviations:
        verdict = "ok" if found.within else "ABOVE"
        numbers = f"{found.value:9.2e}  {found.tolerance:9.0e}"
        print(f"  {found.quantity:{width}}  {numbers}  {verdict:5}  {found.where}".rstrip())


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no tolerance; give a number from 0 on")
    return value


if __name__ == "__main__":
    leave(main())
