"""Errors that nobody foresaw, of this project or of a library: one line, and a file for the rest.

The line names the error, where it came up and the file with its traceback. A run keeps that file
in its workdir, other commands in the folder for temporary files. IBOT_TRACEBACK=1 in the
environment prints the traceback of whatever ends a command as well.
"""

import contextlib
import os
import pathlib
import socket
import tempfile
import traceback
from collections.abc import Iterator

from etils import epath

from ibot_jax.errors import TrainingError, UserError, in_words

_PACKAGE = pathlib.Path(__file__).parent.parent
_MOST = 300  # characters of a library's message: some print their whole program
_HINTS = {
    "RESOURCE_EXHAUSTED": "the memory of the devices ran out: a smaller batch or model, "
    "model.remat=blocks, a larger grad_accum_steps or mesh.fsdp needs less",
    "MemoryError": "the memory of this host ran out: fewer data.workers or a smaller batch needs "
    "less",
}


@contextlib.contextmanager
def told_in(folder: epath.Path | None = None) -> Iterator[None]:
    """Makes what is raised within, unless it is meant for the user, a TrainingError of one line.

    Args:
      folder: where the traceback is written; by default that for temporary files.
    """
    try:
        yield
    except (UserError, TrainingError):
        raise
    except Exception as error:
        raise _told(error, folder) from error


def _told(error: Exception, folder: epath.Path | None) -> TrainingError:
    text = " ".join(in_words(error).split())
    hints = [hint for sign, hint in _HINTS.items() if sign in text]
    if len(text) > _MOST:
        text = f"{text[:_MOST]}..."
    told = TrainingError("; ".join([f"{text} ({_where(error)})", *hints]))
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    told.add_note(_write(error, folder))
    return told


def _where(error: Exception) -> str:
    """Returns the last line of this package that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if pathlib.Path(frame.filename).is_relative_to(_PACKAGE)]
    if not (own or frames):
        return "nowhere"
    frame = (own or frames)[-1]
    path = pathlib.Path(frame.filename)
    name = path.relative_to(_PACKAGE.parent) if own else path
    return f"{name}, line {frame.lineno}"


def _write(error: Exception, folder: epath.Path | None) -> str:
    """Writes the traceback; returns where it is."""
    name = f"traceback-{socket.gethostname()}-{os.getpid()}.txt"
    temporary = epath.Path(tempfile.gettempdir())
    for path in (temporary / name,) if folder is None else (folder / name, temporary / name):
        with contextlib.suppress(Exception):  # a full disk, a bucket out of reach
            path.write_text("".join(traceback.format_exception(error)))
            return f"traceback: {path}"
    return "its traceback cannot be written; IBOT_TRACEBACK=1 prints it"
