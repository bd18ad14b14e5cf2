"""Keeps what libraries log off the screen of who calls this project from Python."""

import contextlib
import warnings
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Mutes what Orbax, through absl, and others say of their doings; what they raise is raised."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(absl|etils|flax|jax|orbax|tensorstore)\b")
            yield
    finally:
        logging.set_verbosity(verbosity)
