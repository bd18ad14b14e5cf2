"""Errors that are meant for the person at the keyboard, and what is said of others."""

import contextlib
import re
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line and exits with 2.

    The message names the key or file, the value found, and what would do.
    """


class TrainingError(Exception):
    """A run that cannot go on (a loss that is not finite, too many bad images); exit code 1.

    Unless it is a `SaveError`, the state is saved before it reaches the command line, which prints
    it and its notes as one line.
    """


class SaveError(TrainingError):
    """A state cannot be saved; the one that was saved last is what the run leaves."""


def in_words(error: BaseException) -> str:
    """Returns the message of an error, behind its type where it is not meant for the user."""
    if isinstance(error, UserError | TrainingError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Adds where it came up to an error that is not meant for the user, and so does not say it."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError | TrainingError):
            error.add_note(where)
        raise


@contextlib.contextmanager
def about_arguments() -> Iterator[None]:
    """Lets what is raised in a Python call name its arguments, as a command's errors name flags."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"--([a-z][a-z_-]*)", lambda flag: flag[1].replace("-", "_"), str(error))
        raise UserError(text) from error.__cause__


@contextlib.contextmanager
def about_key(key: str, path: str) -> Iterator[None]:
    """Lets what is raised where a path is read name the key of the config that names it."""
    try:
        yield
    except UserError as error:
        text, setting = str(error), f"{key}={path!r}"
        own = text.startswith(f"{path} ")
        raise UserError(setting + (text.removeprefix(path) if own else f": {text}")) from error


def require_one_of(flag: str, value: str, words: Iterable[str]) -> None:
    """Raises a UserError if a flag, or what a Python call has for it, is none of some words."""
    words = list(words)
    if value not in words:
        raise UserError(f"{flag}={value} is unknown; use {' or '.join(words)}")
