"""This process among those of the run. Which rows are its own is not told here, but in `rows`."""

import jax


def is_first() -> bool:
    """Returns whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Returns whether the run has no other process."""
    return jax.process_count() == 1


def num_processes() -> int:
    """Returns how many processes the run has."""
    return jax.process_count()


def name() -> str:
    """Returns how warnings call this process."""
    if is_alone():
        return "this process"
    return f"process {jax.process_index()} of {jax.process_count()}"
