"""What all processes do as one: a computation over all devices that one of them skips never ends.

Alone, a process agrees with itself, at no cost.
"""

import collections
import contextlib
import functools
import hashlib
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # whose barriers, unlike the public ones, end in time
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ibot_jax.errors import SaveError, TrainingError, UserError, in_words, located
from ibot_jax.parallel import signals
from ibot_jax.parallel.processes import is_alone
from ibot_jax.parallel.watchdog import Watch

T = TypeVar("T")

# How many batches lie between a vote and its count, which would else wait for the device.
_AHEAD = 2
_FAILED = 1 << 16  # a vote; above every signal's number
_POLL_SECONDS = 0.1
_FAIL_SECONDS = 60  # for the others to fail, too, before this process takes itself for the only one
_MESSAGE_BYTES = 2000
_LENGTH = struct.Struct("<I")  # in front of a message
_KINDS = (UserError, SaveError, TrainingError)  # of errors that processes tell each other


@contextlib.contextmanager
def same_end() -> Iterator[None]:
    """Lets all processes end the block alike: what one raises, the others raise too.

    The block must not hold a computation over all devices.
    """
    try:
        yield
    except Exception as error:
        _tell(error)
        raise
    _tell(None)


def require_same(text: str, what: str) -> None:
    """Raises a UserError on all processes if one has another text than the first."""
    texts = gather(hashlib.sha256(text.encode()).digest())
    for process, other in enumerate(texts):
        if other != texts[0]:
            raise UserError(
                f"process {process} has another {what} than process 0; start all with the same "
                "command line and the same files"
            )


def first_says(holds: bool) -> bool:
    """Returns what the first process passes, on all."""
    return gather(b"1" if holds else b"")[0] == b"1"


def all_say(holds: bool) -> bool:
    """Returns whether what all processes pass is true, on all."""
    return all(gather(b"1" if holds else b""))


def first_text(text: str) -> str:
    """Returns the text that the first process passes, on all."""
    return gather(text.encode())[0].decode()


def wait_for_all(done: Callable[[], bool]) -> None:
    """Returns once `done` has been true on all processes; raises on all what it raises on one."""
    finished = False
    while not finished:
        with same_end():
            own = done()
        finished = all_say(own)
        if not finished:
            time.sleep(_POLL_SECONDS)


def all_fail(at: str) -> bool:
    """Returns whether all processes call this within a minute, and so can still act as one.

    Args:
      at: names the occasion, once a run, in the same words on all processes.
    """
    if is_alone():
        return True
    try:
        distributed.global_state.client.wait_at_barrier(f"ibot_jax/{at}", _FAIL_SECONDS * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def until_told(batches: Iterable[T], watch: Watch = contextlib.nullcontext) -> Iterator[T]:
    """Yields batches as `in_step` does, until a process is told to end.

    Raises:
      signals.Interrupted: on all processes at the same batch, if one has noted a signal.
    """
    for batch, number in in_step(batches, signals.pending, watch):
        if number:
            raise signals.Interrupted(number)
        yield batch


def in_step(
    batches: Iterable[T],
    check: Callable[[], int] = lambda: 0,
    watch: Watch = contextlib.nullcontext,
) -> Iterator[tuple[T, int]]:
    """Yields batches, all processes the same number of them.

    A process votes on each batch as soon as it has made it. The votes are counted on the devices
    while they work on earlier batches, so that agreement costs no time; batches are made `_AHEAD`
    of their use instead.

    Args:
      batches: this process's, as many as the others have.
      check: called with every batch; returns a number, 0 if there is nothing to say.
      watch: is told of every wait.

    Yields:
      A batch, and the largest number that `check` returned on any process.

    Raises:
      Exception: what was raised where a batch could not be made, or `check` raised; on the other
        processes, at the same batch, a TrainingError that says so.
    """
    made = _made(iter(batches), check, watch)
    ahead = 0 if is_alone() else _AHEAD
    voted = collections.deque()
    while True:
        batch, vote, error = next(made)
        voted.append((batch, _count(vote), error))
        if len(voted) <= ahead:
            continue
        batch, count, error = voted.popleft()
        with watch("the devices and the other processes, one of which may be stuck"):
            count = int(count)
        if count >= _FAILED:
            _tell(error)
            raise error
        if batch is None:
            return
        yield batch, count


def _made(batches: Iterator[T], check: Callable[[], int], watch: Watch) -> Iterator[tuple]:
    """Yields (batch, vote, error) without end, for the others vote on, too, until they know."""
    error = None
    while True:
        try:
            watched = watch("its next batch: the input of this host is slow or stuck")
            with watched, located("while a batch was made"):
                batch = next(batches, None)
            vote = check()
        except Exception as raised:
            batch, vote, error = None, _FAILED, raised
            break
        if batch is None:
            break
        yield batch, vote, error
    while True:
        yield None, vote, error


def _count(vote: int) -> int | jax.Array:
    """Returns the largest vote, without waiting for it."""
    if is_alone():
        return vote
    votes, largest = _ballot()
    own = np.full(1, vote, np.int32)  # of each device of this process
    return largest(jax.make_array_from_callback((jax.device_count(),), votes, lambda _: own))


@functools.cache
def _ballot() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("device")), jax.jit(jnp.max, out_shardings=everywhere)


@functools.cache
def _table() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """Returns where a table with a line of each process lies, and what makes all of it known."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.reshape(devices, (jax.process_count(), -1)), ("process", "device"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    known = jax.jit(lambda table: table, out_shardings=everywhere)
    return NamedSharding(mesh, PartitionSpec("process")), known


def _tell(error: Exception | None) -> None:
    """Tells the others of an error here, or that there is none; then raises what they tell."""
    told = [message for message in gather(_message(error)) if message]
    if told and error is None:
        raise _KINDS[told[0][0]](told[0][1:].decode(errors="replace"))


def _message(error: Exception | None) -> bytes:
    if error is None:
        return b""
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), TrainingError)
    where = f"process {jax.process_index()} on {socket.gethostname()}"
    return bytes([_KINDS.index(kind)]) + f"{where}: {in_words(error)}".encode()


def gather(message: bytes) -> list[bytes]:
    """Returns the messages of all processes, each cut to `_MESSAGE_BYTES`."""
    message = message[:_MESSAGE_BYTES]
    if is_alone():
        return [message]
    own = _LENGTH.pack(len(message)) + message.ljust(_MESSAGE_BYTES, b"\0")
    own = np.frombuffer(own, np.uint8)[None]
    layout, known = _table()
    shape = (jax.process_count(), own.shape[1])
    table = np.asarray(known(jax.make_array_from_callback(shape, layout, lambda _: own)))
    told = [(_LENGTH.unpack_from(row)[0], bytes(row[_LENGTH.size :])) for row in table]
    return [text[:length] for length, text in told]
