"""A disk that is full."""

import contextlib
import resource
import signal


@contextlib.contextmanager
def full_disk():
    """Lets no file grow beyond 2,000 bytes; only within, for pytest's own log is a file, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
