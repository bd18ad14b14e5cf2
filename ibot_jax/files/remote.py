"""Folders and files behind a URL (gs://, s3://, file://), by fsspec.

Worker processes read them too, so that tensorflow's file systems, which take seconds and hundreds
of megabytes to import, will not do.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import fsspec

from ibot_jax.errors import UserError

T = TypeVar("T")

_BLOCK = 2**22  # bytes that are read at a time
ANSWER_SECONDS = 15  # for a store's first answer; its own library may try for many minutes
# Extras of ibot-jax, by scheme.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "http": "http", "https": "http"}
# What stores call that which changes with a file.
_STATE = ("size", "ETag", "etag", "mtime", "LastModified", "Last-Modified", "updated")
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before a store is asked again
_NEVER = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    UserError,
)  # asking again helps not


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

    def run() -> None:
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


def read(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Returns what a file holds, or its bytes from `start` to `stop`.

    Raises:
      Exception: of any kind where it is gone, or nobody answers; see `patiently`.
    """
    system = _file_system(url)
    return patiently(lambda: system.cat_file(url, start=start, end=stop))


def patiently(ask: Callable[[], T]) -> T:
    """Returns ask(), which is called four times more where a store fails, in 7.5 seconds.

    Raises:
      Exception: what it raises the last time; at once where a store has said no.
    """
    for wait in _WAITS:
        try:
            return ask()
        except Exception as error:  # each store has errors of its own
            if isinstance(error, _NEVER) or _is_refusal(error):
                raise
        time.sleep(wait)
    return ask()


def opened(url: str) -> BinaryIO:
    """Opens a file that is read from its beginning to its end, mostly."""
    return _file_system(url).open(url, "rb", cache_type="readahead", block_size=_BLOCK)


def state(url: str) -> str:
    """Returns what changes when a file is replaced, as far as its store tells: size, time, hash.

    Raises:
      UserError: if it is not there, or its store cannot be asked.
    """
    info = _asked(url, _file_system(url).info, patient=True)
    told = (info.get(key) for key in _STATE)
    return " ".join(str(value) for value in told if value is not None)


def matching(pattern: str) -> list[str]:
    """Returns the URLs of the files that a pattern (*, ?, [...], **) names, by name.

    Raises:
      UserError: if its store cannot be asked.
    """
    system = _file_system(pattern)
    names = _asked(pattern, system.glob, patient=True)
    return sorted(map(system.unstrip_protocol, names))


def is_folder(url: str) -> bool:
    """Tells whether a folder is there.

    Raises:
      UserError: if nobody answers, or this machine cannot ask.
    """
    system = _file_system(url)

    def answers() -> None:
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
    for entry in _asked(url, lambda url: system.ls(url, detail=True), patient=True):
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


def _is_refusal(error: Exception) -> bool:
    """Tells whether a store has said no, or cannot be asked for want of credentials."""
    if "Credentials" in type(error).__name__:  # of botocore and of google-auth
        return True
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _asked(url: str, ask: Any, *, patient: bool = False) -> Any:
    try:
        return patiently(lambda: ask(url)) if patient else ask(url)
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{url} cannot be listed: {type(error).__name__}: {error}; check the address, the "
            "network and your permissions"
        ) from error
