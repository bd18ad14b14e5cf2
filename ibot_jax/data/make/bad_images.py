"""Images that cannot be read: counted, named in the log, and too many of them end the run."""

import logging
import math
import threading

from ibot_jax.errors import TrainingError

MAX_NAMED = 20  # warnings; a broken disk should not fill the log
MIN_READS = 100  # before the share of bad ones says anything

_log = logging.getLogger(__name__)


class BadImages:
    """The bad images of one pipeline; safe to use from several threads."""

    def __init__(self, num_images: int, max_share: float):
        """Counts for a source of `num_images`, of which the share `max_share` may be bad."""
        self._num_images = num_images
        self._max_share = max_share
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._odd: set[str] = set()
        self._reads = 0
        self._failed_reads = 0

    def __len__(self) -> int:
        """Returns how many different images could not be read so far."""
        return len(self._names)

    def note_reads(self, count: int) -> None:
        """Counts images that have been read or tried."""
        with self._lock:
            self._reads += count

    def note_bad(self, name: str, reason: str) -> None:
        """Counts one of them as bad, and names it in the log if it is a new one.

        Raises:
          TrainingError: once more images are bad than may be, or, so that a large source need not
            be read to the end, once the share among the images read is above the limit by more
            than chance explains (six standard deviations, of `MIN_READS` or more).
        """
        with self._lock:
            self._failed_reads += 1
            if name not in self._names:
                self._names.add(name)
                self._warn(name, reason)
            expected = self._max_share * self._reads
            if len(self._names) > self._max_share * self._num_images or (
                self._reads >= MIN_READS and self._failed_reads > expected + 6 * math.sqrt(expected)
            ):
                raise TrainingError(
                    f"{len(self._names)} images could not be read, {self._failed_reads} of "
                    f"{self._reads} reads ({self._failed_reads / self._reads:.1%}): more than "
                    f"data.max_bad_share={self._max_share} of {self._num_images}; mend or remove "
                    f"them, or raise the limit. Among them: {', '.join(sorted(self._names)[:5])}"
                )

    def note_odd(self, name: str, note: str) -> None:
        """Names in the log an image that can be read, but may not be what is meant."""
        with self._lock:
            if name in self._odd or len(self._odd) > MAX_NAMED:
                return
            self._odd.add(name)
            more = "" if len(self._odd) <= MAX_NAMED else "; further ones are not named"
            _log.warning("%s: %s%s", name, note, more)

    def _warn(self, name: str, reason: str) -> None:
        if len(self._names) <= MAX_NAMED:
            _log.warning("skipped %s: %s", name, reason)
        if len(self._names) == MAX_NAMED:
            _log.warning("further images that cannot be read are counted, but not named")
