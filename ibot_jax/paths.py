"""Paths that users give, on disks and in buckets, looked at before anything is computed."""

import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence

from etils import epath

from ibot_jax.data.tf import import_tensorflow
from ibot_jax.errors import UserError

_REACH_SECONDS = 15  # for a bucket's first answer; TensorFlow itself tries for many minutes
_NO_FOLDER = re.compile("digits$|synthetic(:|$)|tfds:")  # sources of other kinds
_log = logging.getLogger(__name__)


def is_remote(path: str) -> bool:
    """Returns whether a path begins with a scheme, such as gs://."""
    return re.match(r"[A-Za-z][\w+.-]*://", path) is not None


def absolute_path(path: str) -> epath.Path:
    """Returns a path that a user gives, local or of a bucket (gs://...), as absolute.

    Raises:
      UserError: if it is of another scheme, or its bucket does not answer.
    """
    if not is_remote(path):
        return epath.Path(os.path.abspath(os.path.expanduser(path)))
    require_reachable(path)
    return epath.Path(path)


def require_reachable(path: str) -> None:
    """Makes sure that the bucket of a path answers; of a local path nothing is asked.

    Raises:
      UserError: if it does not within 15 s, or the scheme is none that is read here.
    """
    if not is_remote(path):
        return
    scheme, _, rest = path.partition("://")
    bucket = rest.partition("/")[0]
    if scheme != "gs":
        raise UserError(
            f"{path}: {scheme}:// is no storage that is read or written here; give a local path (a "
            "bucket may be mounted there) or one of Google Cloud Storage, gs://BUCKET/PATH"
        )
    if not bucket:
        raise UserError(f"{path} names no bucket; write gs://BUCKET/PATH")
    if reason := _refusal(bucket, path):
        raise UserError(
            f"{path} cannot be reached ({reason}); look at the network, the bucket's name and the "
            "credentials (gcloud auth application-default login), or give a local path"
        )


_answered: set[str] = set()  # buckets


def _refusal(bucket: str, path: str) -> str:
    """Returns why a bucket does not answer, "" if it does."""
    if bucket in _answered:
        return ""
    import_tensorflow()  # which reads it; to import it is slow, and no fault of the bucket
    # The path itself, since many accounts may look at objects but not at their bucket.
    reason = _limited(epath.Path(path).exists, _REACH_SECONDS)
    if not reason:
        _answered.add(bucket)
    return reason


def _limited(ask: Callable[[], object], seconds: float) -> str:
    """Returns why `ask` raised, or that it took longer; "" if it did neither."""
    reasons = [f"no answer within {seconds:g} s"]

    def run():
        try:
            ask()
            reasons.append("")
        except Exception as error:  # of TensorFlow, which has kinds of its own
            reasons.append(reason_of(error))

    thread = threading.Thread(target=run, daemon=True)  # it may wait for minutes
    thread.start()
    thread.join(seconds)
    return reasons[-1]


def reason_of(error: BaseException) -> str:
    """Returns what an error says, in one line, without Python's or TensorFlow's wrapping."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def require_writable(target: epath.Path, flag: str) -> None:
    """Makes sure that a file or folder can be made at a path, by writing beside it and removing it.

    Args:
      target: what is to be made; it or its parents may be missing.
      flag: that names it, for errors.

    Raises:
      UserError: if it cannot be made.
    """
    place = target if target.is_dir() else target.parent
    while not (is_remote(str(place)) or os.path.lexists(place)):  # a bucket needs no folders
        place = place.parent
    probe = place / f".ibot_jax-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except Exception as error:  # of TensorFlow, too, which has kinds of its own
        raise UserError(
            f"{flag}={target} cannot be written ({reason_of(error)}: {place}); choose another path"
        ) from error


def warn_if_among_images(target: str, flag: str, sources: Sequence[str]) -> None:
    """Warns if what is written would lie among images that are, or were, read as data.

    Args:
      target: path of what is written.
      flag: that names it.
      sources: paths, or sources such as "folder:PATH"; others are passed over.
    """
    if is_remote(target):
        return
    inside = os.path.realpath(os.path.expanduser(target))
    for source in sources:
        if not source or is_remote(source.removeprefix("folder:")) or _NO_FOLDER.match(source):
            continue
        folder = os.path.realpath(os.path.expanduser(source.removeprefix("folder:")))
        if os.path.isdir(folder) and os.path.commonpath((folder, inside)) == folder:
            _log.warning(
                "%s=%s lies in %s, whose images are data: what is written there may be read as "
                "data, too; choose a path outside",
                *(flag, target, folder),
            )
            return
