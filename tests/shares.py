"""The rows of processes that are not there."""

from ibot_jax.parallel.shares import Rows


def _rows_of(shares):
    return [Rows(shares, own) for own in range(len(shares))]


def blocks(batch_size, count):
    """Each process has one block of the rows."""
    own = batch_size // count
    return _rows_of(tuple(tuple(range(p * own, (p + 1) * own)) for p in range(count)))


def in_turn(batch_size, count):
    """The processes have rows in turn, as where a mesh takes their devices in turn."""
    return _rows_of(tuple(tuple(range(p, batch_size, count)) for p in range(count)))
