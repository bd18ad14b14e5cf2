"""Folders and files behind a URL (gs://, s3://, file://), by fsspec.

Worker processes read them too, so that tensorflow's file systems, which take seconds and hundreds
of megabytes to import, will not do.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import fsspec

from ibot_jax.errors import UserError

T = TypeVar("T")

ANSWER_SECONDS = 15  # for a store's first answer; its own library may try for many minutes
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}  # of ibot-jax, by scheme


def is_remote(path: str) -> bool:
    """Tells URLs from local paths."""
    return re.match(r"[A-Za-z][\w+.-]*://", path) is not None


def within(seconds: float, ask: Callable[..., T], *args: Any) -> T:
    """Returns ask(*args), or raises what it raises.

    Raises:
      TimeoutError: if it takes longer; it is then left alone, in a thread that ends with the
        process.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def run():
        try:
            answers.append(ask(*args))
        except Exception as error:  # each store has errors of its own
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]


def read(url: str) -> bytes:
    """Returns what a file holds; raises any exception where it is gone."""
    return _file_system(url).cat_file(url)


def is_folder(url: str) -> bool:
    """Tells whether a folder is there.

    Raises:
      UserError: if nobody answers, or this machine cannot ask.
    """
    system = _file_system(url)

    def answers():
        with contextlib.suppress(FileNotFoundError):  # which is an answer, too
            system.info(url)  # of one entry: all that is in a folder may take longer to list

    _asked(url, lambda _: within(ANSWER_SECONDS, answers))
    return _asked(url, system.isdir)


def entries(url: str) -> Iterator[tuple[str, bool]]:
    """Yields name and "is a folder" of what lies right in a folder.

    Raises:
      UserError: if it cannot be listed.
    """
    system = _file_system(url)
    for entry in _asked(url, lambda url: system.ls(url, detail=True)):
        # Object stores may list a folder's placeholder, an empty object, inside it.
        if entry["name"].rstrip("/") != system._strip_protocol(url).rstrip("/"):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            yield name, entry["type"] == "directory"


def _file_system(url: str) -> fsspec.AbstractFileSystem:
    """Returns what reads URLs of this scheme; fsspec keeps one of each."""
    scheme = url.partition("://")[0]
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"pip install 'ibot-jax[{extra}]'" if extra else "install it, or copy the files"
        raise UserError(f"{url} cannot be read: {error}; {remedy}") from error


def _asked(url: str, ask: Any) -> Any:
    try:
        return ask(url)
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{url} cannot be listed: {type(error).__name__}: {error}; check the address, the "
            "network and your permissions"
        ) from error
