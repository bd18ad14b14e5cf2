"""Command lines: their screen and their ends."""

import argparse
import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Container, Mapping
from types import ModuleType
from typing import Any, NoReturn

from absl import logging as absl_logging

from ibot_jax.cli import exits, unforeseen
from ibot_jax.errors import TrainingError, UserError, in_words
from ibot_jax.parallel import signals
from ibot_jax.screen.progress import write_line


def exit_status(
    command: Callable[[], int | None],
    *,
    mistakes: tuple[type[Exception], ...] = (UserError, OSError),
    interrupted: str = "interrupted",
) -> int:
    """Runs a command; whatever ends it is told in one line.

    Args:
      command: what to run; returns its exit status, None for `exits.COMPLETE`.
      mistakes: errors that the user can mend; an OSError that names a file is one.
      interrupted: what is said after Ctrl-C.

    Returns:
      The command's exit status, see `exits`.
    """
    _quieten_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr: a name that is no text is told, too
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals.ending(interrupted), unforeseen.told_in():
            try:
                return command() or exits.COMPLETE
            except mistakes as error:
                if isinstance(error, OSError) and error.filename is None:
                    raise
                _tell_others(exits.MISTAKE, error)
                print_error(error)
                return exits.MISTAKE
    except TrainingError as error:
        _tell_others(exits.FAILED, error)
        print_error(error)
        return exits.FAILED
    except KeyboardInterrupt:  # not of a signal here
        print_line(interrupted)
        return signals.status_of(signal.SIGINT)


def leave(status: int) -> NoReturn:
    """Ends the program, at once where it failed: threads may wait for what never comes.

    After a mistake of the user, which comes before there are any, Python ends as always.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever read it has left; Python would try again, and tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    distributed = _distributed()
    several = distributed is not None and distributed.leave(status)
    if status not in (exits.COMPLETE, exits.MISTAKE) or (status and several):
        os._exit(status)
    sys.exit(status)


def _tell_others(status: int, error: Exception) -> None:
    if distributed := _distributed():
        distributed.tell(status, error)


def _distributed() -> ModuleType | None:
    """Returns the module where it is in use; its import, which is JAX's, would delay a mistake."""
    return sys.modules.get("ibot_jax.parallel.distributed")


def _quieten_libraries() -> None:
    """Keeps libraries off the screen; the project's own warnings pass by a progress bar."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # errors of Orbax's threads are raised, too
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the same

    told = set()  # evaluations open the same folders and read the same images again and again

    class Screen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message not in told:
                told.add(message)
                with contextlib.suppress(OSError):  # the terminal may be gone
                    write_line(f"warning: {message}", sys.stderr)

    logger = logging.getLogger("ibot_jax")
    logger.handlers = [Screen()]
    logger.propagate = False

    def warn(error: BaseException | None) -> None:  # of what libraries would print as tracebacks
        closed = "Event loop is closed"  # after a failure that is raised, too
        if error is not None and str(error) != closed:
            logger.warning("in a library, %s", " ".join(in_words(error).split()))

    threading.excepthook = lambda raised: warn(raised.exc_value)
    sys.unraisablehook = lambda raised: warn(raised.exc_value)
    sys.excepthook = lambda kind, error, trace: warn(error)


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


def print_help(text: str) -> None:
    """Prints to stdout, of which a pager may read no more than the beginning."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose help is a docstring as it stands, and whose flags are written in full.

    It raises what ArgumentParser would print with its usage, which ends in more than one line.
    Words of a flag may be joined by "-" or "_".
    """

    def __init__(self, *, former: Mapping[str, str] | None = None, **options: Any):
        """Makes one.

        Args:
          former: what flags are called now, by how earlier versions called them.
          **options: as of argparse.ArgumentParser.
        """
        self._former = former or {}
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        options.setdefault("epilog", exits.listing())
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # of parse_args
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._current(word) for word in words], namespace)

    def _current(self, word: str) -> str:
        """Returns a word of the command line with its flag, if it is one, as it is called now."""
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in self._option_string_actions:
            return word
        words = re.split("[-_]", flag[2:])
        others = (self._former.get(flag), f"--{'-'.join(words)}", f"--{'_'.join(words)}")
        known = [other for other in others if other in self._option_string_actions]
        return f"{known[0]}{equals}{value}" if known else word

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def written_out(self, args: argparse.Namespace, leave_out: Container[str] = ()) -> list[str]:
        """Returns flags that parse to these values, defaults included.

        Args:
          args: the values; --config's overrides in `overrides`.
          leave_out: names of values that are not wanted.
        """
        words = []
        for action in self._actions:
            value = getattr(args, action.dest, None)
            if action.dest in leave_out or value is None or (not value and not action.default):
                continue
            flag = action.option_strings[-1]
            if isinstance(value, list):
                words += [flag, *map(str, value)]
            elif value is True:
                words.append(flag)
            else:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                words.append(f"{flag}={text}")
        return words + getattr(args, "overrides", [])
