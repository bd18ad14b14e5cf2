"""Folders and files behind a URL (gs://, s3://, file://), by fsspec.

Worker processes read them too, so that tensorflow's file systems, which take seconds and hundreds
of megabytes to import, will not do.
"""

from collections.abc import Iterator
from typing import Any

import fsspec

from ibot_jax.errors import UserError

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}  # of ibot-jax, by scheme


def is_remote(path: str) -> bool:
    """Tells URLs from local paths."""
    return "://" in path


def read(url: str) -> bytes:
    """Returns what a file holds; raises any exception where it is gone."""
    return _file_system(url).cat_file(url)


def is_folder(url: str) -> bool:
    """Tells whether a folder is there.

    Raises:
      UserError: if nobody answers, or this machine cannot ask.
    """
    return _asked(url, _file_system(url).isdir)


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
