"""One run a workdir: a file that says which process writes there, and a thread that keeps it so.

    WORKDIR/.lock.json  {"host", "pid", "started", "start", "place", "token", "beat"}

The thread counts `beat` up. Whether a process of the same system lives, the system tells; another
one is taken for dead once its file has stood still for `STALE_SECONDS`, by the clock of whoever
waits: clocks of hosts need not agree. The thread also notices when the folder, or what else it is
told to watch, is removed, or when nothing can be written there any more.
"""

import contextlib
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
from etils import epath

from ibot_jax.errors import TrainingError, UserError
from ibot_jax.parallel import signals
from ibot_jax.parallel.processes import is_first

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # for so long network file systems may show what was there before
PATIENCE_SECONDS = 30.0  # storage may fail for a moment
_SETTLE_SECONDS = 2.0  # buckets take the files of two writers; that of the later one stays

_FILE = ".lock.json"
_PROBE = ".probe"

_log = logging.getLogger(__name__)


class Lock:
    """The lock of a folder, held; on processes other than the first it does nothing."""

    def __init__(self, folder: epath.Path, *, flag: str = "--workdir"):
        """Takes the lock; where only time can tell whether its holder lives, that takes time.

        Args:
          folder: that exists.
          flag: that names it on the command line, for errors.

        Raises:
          UserError: if another process holds it.
          OSError: if the folder cannot be written.
        """
        self._folder = folder
        self._path = folder / _FILE
        self._local = not _is_bucket(folder)
        self._own = _this_process()
        self._watched: dict[epath.Path, int | None] = {}  # and what the file system calls them
        self._error: TrainingError | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        if is_first():
            self._take(flag)
            self._thread.start()

    def watch(self, *names: str) -> None:
        """Has the thread look after files and folders in the folder, too, once they exist."""
        if self._local:  # buckets have no folders, and their files are written anew
            self._watched |= {self._folder / name: None for name in names}

    def check(self) -> None:
        """Raises a TrainingError if the folder is not there, not ours or cannot be written."""
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Leaves the folder to the next run."""
        if self._thread.ident is None or self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _parsed(self._read()).get("token") == self._own["token"]:
                self._path.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator["Lock"]:
        """Yields itself, and releases it at the end of the block, also at that by a signal."""
        try:
            with signals.before_end(self.release):
                yield self
        finally:
            self.release()

    def _take(self, flag: str) -> None:
        while not self._create():
            found = self._read()
            if found is None:
                continue
            holder = _parsed(found)
            alive = _lives(holder)
            if alive is None:
                alive = self._changes(found, holder)
            if alive:
                holder = _parsed(self._read()) or holder
                raise UserError(
                    f"{flag}={self._folder} is in use by process {holder.get('pid')} on "
                    f"{holder.get('host')} since {holder.get('started')}; stop that one, or choose "
                    f"another {flag}"
                )
            if self._read() == found:
                self._path.unlink()

    def _create(self) -> bool:
        """Writes the file; returns whether it is ours and not one that was there."""
        if self._local:
            try:
                with open(self._path, "x") as file:
                    file.write(json.dumps(self._own))
            except FileExistsError:
                return False
            return True
        if self._path.exists():
            return False
        self._path.write_text(json.dumps(self._own))
        time.sleep(_SETTLE_SECONDS)
        return _parsed(self._read()).get("token") == self._own["token"]

    def _changes(self, found: bytes, holder: dict[str, Any]) -> bool:
        """Returns whether the file changes, as long as a living process might leave it alone."""
        _log.warning(
            "%s is in use by process %s on %s, which this host cannot ask for: waiting up to "
            "%.0f s for a sign of life",
            self._folder,
            holder.get("pid"),
            holder.get("host"),
            STALE_SECONDS,
        )
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 2)
            now = self._read()
            if now != found:
                return now is not None
        return False

    def _read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _keep(self) -> None:
        failing_since = None
        while not self._released.wait(BEAT_SECONDS):
            try:
                self._beat()
                failing_since = None
            except TrainingError as error:
                self._error = error
                return
            except Exception as error:  # those of buckets are of every kind
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= PATIENCE_SECONDS:
                    reason = getattr(error, "strerror", None) or error
                    self._error = TrainingError(f"{self._folder} cannot be written ({reason})")
                    return

    def _beat(self) -> None:
        """Shows that this process lives, and looks after the folder."""
        if self._local:
            if not self._folder.is_dir():
                raise TrainingError(f"{self._folder} was removed while the run was writing to it")
            for path, before in self._watched.items():
                inode = os.stat(path).st_ino if path.exists() else None
                if before not in (None, inode):
                    raise TrainingError(f"{path} was removed while the run was writing to it")
                self._watched[path] = inode
            probe = self._folder / _PROBE
            probe.write_bytes(bytes(4096))
            probe.unlink()
        found = self._read()
        holder = _parsed(found)
        if holder.get("token", self._own["token"]) != self._own["token"]:
            raise TrainingError(
                f"{self._folder} was taken over by process {holder.get('pid')} on "
                f"{holder.get('host')}, which saw no sign of life of this one"
            )
        self._own["beat"] += 1
        text = json.dumps(self._own)
        if self._local and found is not None:
            with open(self._path, "r+") as file:  # the same file, which others see sooner
                file.write(text)
                file.truncate()
        else:
            self._path.write_text(text)


def _is_bucket(folder: epath.Path) -> bool:
    return "://" in str(folder)


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "start": _start_of(os.getpid()),
        "place": _place(),
        "token": secrets.token_hex(8),
        "beat": 0,
    }


def _parsed(text: bytes | None) -> dict[str, Any]:
    """Returns what a lock's file says; nothing where it is damaged or just being written."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text or b"")
        if isinstance(value, dict):
            return value
    return {}


def _lives(holder: dict[str, Any]) -> bool | None:
    """Returns whether the process lives that a lock's file names; None if that cannot be known."""
    if holder.get("place") != _place():
        return None
    try:
        return _start_of(holder["pid"]) == holder["start"]
    except (KeyError, TypeError, ValueError):
        return None


def _start_of(pid: int) -> str | None:
    """Returns when a process started, in the system's own terms; None if it does not live.

    A number may belong to another process by now.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if psutil.LINUX:  # the time of day that it started changes with the clock
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
            return stat.rpartition(")")[2].split()[19]
        return str(process.create_time())
    except (psutil.Error, OSError):
        return None


def _place() -> str:
    """Returns what tells where process numbers mean the same: this boot of this (virtual) host."""
    if not psutil.LINUX:
        return f"{socket.gethostname()} {psutil.boot_time()}"
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
