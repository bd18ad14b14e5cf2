"""Command lines: their screen and ends, and a config file with overrides among the arguments.

    --config=PATH[:ARGUMENT] --config.KEY=VALUE ...

Whatever does not parse is a UserError, found before anything slow is imported.
"""

import argparse
import contextlib
import importlib.util
import itertools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from ibot_jax import signals, unforeseen
from ibot_jax.config_check import flatten
from ibot_jax.config_keys import type_name, unknown_key
from ibot_jax.config_rules import refuse
from ibot_jax.errors import TrainingError, UserError, in_words


def exit_status(
    command: Callable[[], int | None],
    *,
    mistakes: tuple[type[Exception], ...] = (UserError, OSError),
    interrupted: str = "interrupted",
) -> int:
    """Runs a command; whatever ends it is told in one line.

    Args:
      command: what to run; returns its exit status, None for 0.
      mistakes: errors that the user can mend; an OSError that names a file is one.
      interrupted: what is said after Ctrl-C.

    Returns:
      The command's exit status: 2 after a mistake, 1 after any other error, 130, 143 and 129 after
      SIGINT, SIGTERM and SIGHUP.
    """
    _quieten_libraries()
    try:
        with signals.raised(), unforeseen.told_in():
            try:
                return command() or 0
            except mistakes as error:
                if isinstance(error, OSError) and error.filename is None:
                    raise
                print_error(error)
                return 2
    except TrainingError as error:
        print_error(error)
        if "jax" in sys.modules:
            from ibot_jax import distributed  # which imports jax: no mistake waits for that

            distributed.leave_failed()
        return 1
    except KeyboardInterrupt:
        print_line(interrupted)
        return 128 + signal.SIGINT
    except signals.Interrupted as told:
        print_line(interrupted if told.number == signal.SIGINT else str(told))
        return 128 + told.number


def leave(status: int) -> NoReturn:
    """Ends the program, at once where it failed: threads may wait for what never comes."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever read it has left; Python would try again, and tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    jax = sys.modules.get("jax")
    if status and not (jax and jax.distributed.is_initialized()):  # several part in good order
        os._exit(status)
    sys.exit(status)


def _quieten_libraries() -> None:
    """Keeps libraries off the screen; the project's own warnings pass by a progress bar."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # errors of Orbax's threads are raised, too
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the same

    told = set()  # evaluations open the same folders and read the same images again and again

    class Screen(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if message not in told:
                told.add(message)
                with contextlib.suppress(OSError):  # the terminal may be gone
                    tqdm.write(f"warning: {message}", file=sys.stderr)

    logger = logging.getLogger("ibot_jax")
    logger.handlers = [Screen()]
    logger.propagate = False
    threading.excepthook = lambda raised: logger.warning(
        "a thread ended: %s", " ".join(in_words(raised.exc_value).split())
    )


def print_error(error: Exception) -> None:
    """Prints what ends a command, with its notes, as one line."""
    if os.environ.get("IBOT_TRACEBACK", "0") != "0":
        print_line("".join(traceback.format_exception(error)).rstrip())
    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    print_line(f"error: {' '.join(text.split())}")


def print_line(text: str) -> None:
    """Prints to stderr, which may be gone."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose help is a docstring as it stands, and whose flags are written in full.

    It raises what ArgumentParser would print with its usage, which ends in more than one line.
    """

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --config; its overrides are left for `parse_config`, since argparse cannot know them."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config; override its keys with --config.KEY=VALUE",
    )


def parse_config(argv: list[str], values: flags.FlagValues) -> ConfigDict:
    """Reads a command line of flags with a config among them.

    Args:
      argv: as in sys.argv.
      values: the other flags that it may hold; their values are set.

    Returns:
      The config, locked and with the overrides applied, not yet checked.

    Raises:
      UserError: for whatever does not parse.
    """
    defaults = _load_config(config_path(argv))
    _check_overrides(argv, defaults)
    config_flags.DEFINE_config_file(
        "config", None, "a config file", values, lock_config=True, sys_argv=argv
    )
    try:
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal_value(error, defaults) from None
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from None
    if rest:
        raise UserError(f"{rest[0]!r} is no flag; overrides are written --config.KEY=VALUE")
    return values.config


def config_path(argv: list[str]) -> str:
    """Returns the value of --config=PATH or --config PATH.

    Raises:
      UserError: if there is none.
    """
    for argument, following in itertools.pairwise([*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-") and (value if equals else following):
            return value if equals else following
    raise UserError("no config is given; begin with --config=configs/digits.py")


def _load_config(path: str) -> ConfigDict:
    """Loads a config once before config_flags does, whose errors would be tracebacks."""
    file, colon, argument = path.partition(":")
    if not os.path.isfile(file):
        raise UserError(f"--config={path}: there is no file {file}")
    try:
        spec = importlib.util.spec_from_file_location("config_preview", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if colon else []))
    except UserError as error:
        raise UserError(f"--config={path}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == module.__file__]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise UserError(f"--config={path}: {where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={path}: get_config() returns no ConfigDict")
    return config


def _check_overrides(argv: list[str], config: ConfigDict) -> None:
    """Finds overrides of keys that the config lacks, or of whole sections."""
    flat = flatten(config)
    found = []
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=", 1)[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        if key in config and isinstance(config[key], ConfigDict):
            found.append(f"config.{key} is a section; set its keys one by one")
        elif key not in flat:
            found.append(unknown_key(key, flat))
    refuse(found)


def _illegal_value(error: flags.Error, config: ConfigDict) -> UserError:
    """Rephrases absl's "flag --config.KEY=VALUE: reason"."""
    text = str(error).removeprefix("flag --config.")
    key, _, value = text.partition("=")
    default = flatten(config).get(key)
    if text == str(error) or default is None:
        return UserError(str(error))
    value = value.split(": ", 1)[0]
    return UserError(f"config.{key}={value} has the wrong type; it takes {type_name(default)}")
