"""The command line that trains.

    python -m ibot_jax.main --config=CONFIG [--workdir=DIR] [--config.KEY=VALUE ...]
    python -m ibot_jax.main --help=config

CONFIG is a file or the name of one that comes with the project, such as digits or vitb16:v5e-256.
--help=config lists every key with its default, kind, range and meaning; their groups stand below.

Started again on the same workdir, it resumes. On several hosts, start it on each; where JAX does
not find the others by itself (it does on Cloud TPU, GKE, SLURM, Open MPI), add

    --coordinator_address=HOST:PORT --num_processes=NUMBER --process_id=0, 1, ...

One run writes to a workdir at a time; another one is refused. Whatever ends it but a mistake, the
last good state is saved before, and the same command goes on; nohup keeps SIGHUP off, and SIGINT is
Ctrl-C.
What ends a run is one line; where it has a traceback, that lies in
WORKDIR/traceback-HOST-PROCESS.txt, and IBOT_TRACEBACK=1 prints it. Ctrl-C five seconds or more
after the first ends at once, without a save.
"""

from ibot_jax.parallel import signals

if __name__ == "__main__":
    signals.end_at_once()  # a signal during the imports is one line, too

import dataclasses
import os
import pathlib
import sys

# Before any import that reads them: the screen is for the run, not for its libraries.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags
from ml_collections import ConfigDict

from ibot_jax.cli import exits
from ibot_jax.cli.command_line import exit_status, leave, print_help
from ibot_jax.cli.config_file import config_path, parse_config, recipe_in_words
from ibot_jax.config.defaults import KEYS, SECTIONS
from ibot_jax.config.listing import groups, listing
from ibot_jax.errors import UserError
from ibot_jax.runs.check import problems_at_hand


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    # An OSError that nobody has explained is no mistake here: its traceback tells a run's failure.
    return exit_status(lambda: _run(sys.argv if argv is None else argv), mistakes=(UserError,))


def _run(argv: list[str]) -> int:
    if "--help=config" in argv[1:]:
        print_help(listing(KEYS, SECTIONS))
        return exits.COMPLETE
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print_help(f"{__doc__}\n{exits.listing()}\n\n{groups(KEYS, SECTIONS)}")
        return exits.COMPLETE
    arguments = parse_arguments(argv)
    return _pretrain(arguments)


def _pretrain(arguments: "Arguments") -> int:
    import jax

    if arguments.config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from ibot_jax.parallel import distributed

    distributed.join(arguments.coordinator_address, arguments.num_processes, arguments.process_id)
    from ibot_jax.runs.pretrain import pretrain

    return pretrain(
        arguments.config,
        arguments.workdir,
        allow_config_change=arguments.allow_config_change,
        recipe=arguments.recipe,
    )


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line.

    Attributes:
      config: locked and with the overrides applied.
      recipe: the config's name, and in what overrides depart from it.
      workdir: where the run writes.
      allow_config_change: whether a workdir of another config is accepted.
      coordinator_address: of the first process of several, HOST:PORT, None if JAX is to find it.
      num_processes: how many they are, or None.
      process_id: the number of this one, or None.
    """

    config: ConfigDict
    recipe: str
    workdir: str
    allow_config_change: bool
    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None


def parse_arguments(argv: list[str]) -> Arguments:
    """Reads the command line.

    Args:
      argv: as in sys.argv.

    Returns:
      What it says, the config checked without data and devices.

    Raises:
      UserError: with all mistakes.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "where the run writes; runs/CONFIG if not given", values)
    flags.DEFINE_boolean(
        "allow_config_change", False, "resume a workdir whose config differs", values
    )
    address = "HOST:PORT of the first of several processes"
    flags.DEFINE_string("coordinator_address", None, address, values)
    number, this = "how many processes the run has", "the number of this one, from 0 on"
    flags.DEFINE_integer("num_processes", None, number, flag_values=values)
    flags.DEFINE_integer("process_id", None, this, flag_values=values)
    config = parse_config(argv, values, check=problems_at_hand)
    return Arguments(
        config=config,
        recipe=recipe_in_words(argv, config),
        workdir=values.workdir or f"runs/{_config_name(config_path(argv))}",
        allow_config_change=values.allow_config_change,
        coordinator_address=values.coordinator_address,
        num_processes=values.num_processes,
        process_id=values.process_id,
    )


def _config_name(path: str) -> str:
    """Returns "cifar10-reference" for "configs/cifar10.py:reference"."""
    file, _, argument = path.partition(":")
    return "-".join(filter(None, [pathlib.Path(file).stem, argument]))


if __name__ == "__main__":
    leave(main())
