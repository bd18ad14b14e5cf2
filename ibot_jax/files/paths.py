"""Paths that users give, on disks and in buckets, looked at before anything is computed."""

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence

from etils import epath

from ibot_jax.errors import TrainingError, UserError
from ibot_jax.files import remote
from ibot_jax.files.tf import import_tensorflow

_NO_FOLDER = re.compile(
    "digits$|synthetic(:|$)|(tfds|tar|zip|parquet|arrayrecord|list|hf):"
)  # sources of other kinds
_log = logging.getLogger(__name__)


def absolute_path(path: str) -> epath.Path:
    """Returns a path that a user gives, local or of a bucket (gs://...), as absolute.

    Raises:
      UserError: if it is of another scheme, or its bucket does not answer.
    """
    if not remote.is_remote(path):
        return epath.Path(os.path.abspath(os.path.expanduser(path)))
    require_reachable(path)
    return epath.Path(path)


def require_reachable(path: str) -> None:
    """Makes sure that the bucket of a path answers; of a local path nothing is asked.

    Raises:
      UserError: if it does not in time, or the scheme is another one.
    """
    if not remote.is_remote(path):
        return
    scheme, _, rest = path.partition("://")
    bucket = rest.partition("/")[0]
    if scheme != "gs":
        raise UserError(
            f"{path}: models and outputs are on disks or in gs://BUCKET/PATH, not behind "
            f"{scheme}://; give such a path (a bucket can be mounted)"
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
    try:
        import_tensorflow()  # which reads it; to import it is slow, and no fault of the bucket
        # The path itself, since many accounts may look at objects but not at their bucket.
        remote.within(remote.ANSWER_SECONDS, epath.Path(path).exists)
    except Exception as error:  # of TensorFlow, which has kinds of its own
        return reason_of(error)
    _answered.add(bucket)
    return ""


def reason_of(error: BaseException) -> str:
    """Returns what an error says, in one line, without Python's or TensorFlow's wrapping."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def require_new(target: epath.Path, flag: str, *, overwrite: bool) -> None:
    """Raises a UserError if a path exists and may not be replaced, or cannot be written.

    Args:
      target: what is to be made.
      flag: that names it, for errors.
      overwrite: whether it may be replaced.
    """
    if target.exists() and not overwrite:
        raise UserError(f"{flag}={target} exists; choose another path, or --overwrite")
    require_writable(target, flag)


def require_writable(target: epath.Path, flag: str) -> None:
    """Makes sure that a file or folder can be made at a path, by writing beside it and removing it.

    Args:
      target: what is to be made; it or its parents may be missing.
      flag: that names it, for errors.

    Raises:
      UserError: if it cannot be made.
    """
    place = target if target.is_dir() else target.parent
    while not (remote.is_remote(str(place)) or os.path.lexists(place)):  # a bucket needs no folders
        place = place.parent
    probe = place / f".ibot_jax-{secrets.token_hex(4)}"
    try:
        probe.touch()
        probe.unlink()
    except Exception as error:  # of TensorFlow, too, which has kinds of its own
        raise UserError(
            f"{flag}={target} cannot be written ({reason_of(error)}: {place}); choose another path"
        ) from error


@contextlib.contextmanager
def writing(flag: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever prevents writing into a UserError.

    Args:
      flag: that names what is written.
      path: its value.
    """
    try:
        yield
    except (UserError, TrainingError):
        raise
    except Exception as error:  # of TensorFlow and Orbax, too, which have kinds of their own
        raise UserError(
            f"{flag}={path} cannot be written ({reason_of(error)}); choose another path"
        ) from error


def warn_if_among_images(target: str, flag: str, sources: Sequence[str]) -> None:
    """Warns if what is written would lie among images that are, or were, read as data.

    Args:
      target: path of what is written.
      flag: that names it.
      sources: paths, or sources such as "folder:PATH"; others are passed over.
    """
    if remote.is_remote(target):
        return
    inside = os.path.realpath(os.path.expanduser(target))
    for source in sources:
        path = "" if _NO_FOLDER.match(source) else source.removeprefix("folder:")
        if not path or remote.is_remote(path):
            continue
        folder = os.path.realpath(os.path.expanduser(path))
        if os.path.isdir(folder) and os.path.commonpath((folder, inside)) == folder:
            _log.warning(
                "%s=%s lies in %s, whose images are data: what is written there may be read as "
                "data, too; choose a path outside",
                *(flag, target, folder),
            )
            return
