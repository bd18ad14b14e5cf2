"""A process alone agrees with itself; several are tested in test_multihost.py."""

import contextlib
import hashlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.errors import SaveError, TrainingError, UserError
from ibot_jax.parallel import agreement, signals


def test_batches_come_with_what_is_checked_when_they_are_made():
    numbers = iter([0, 15, 2, 0])  # the last at the end
    assert list(agreement.in_step(iter("abc"), lambda: next(numbers))) == [
        ("a", 0),
        ("b", 15),
        ("c", 2),
    ]


def test_a_failure_comes_at_its_batch():
    def batches():
        yield "a"
        raise TrainingError("broken")

    running = agreement.in_step(batches())
    assert next(running) == ("a", 0)
    with pytest.raises(TrainingError, match="^broken$"):
        next(running)


@pytest.fixture
def two_processes(monkeypatch):
    """Returns what the other of two processes says: its votes and its messages, both in order."""
    votes, messages = [], []
    monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "_count", lambda own: jnp.maximum(own, votes.pop(0)))
    monkeypatch.setattr(agreement, "gather", lambda own: [own, messages.pop(0)])
    return votes, messages


@pytest.mark.parametrize("kind", [UserError, TrainingError, SaveError])
def test_what_one_process_raises_the_other_raises_too(two_processes, kind):
    _, messages = two_processes
    messages.append(b"")
    with pytest.raises(kind, match="^broken$"), agreement.same_end():
        raise kind("broken")
    messages.append(agreement._message(kind("broken")))
    with pytest.raises(kind, match=r"^process 0 on \S+: broken$"), agreement.same_end():
        pass


def test_a_failure_of_the_other_process_ends_the_batches_before_its_own(two_processes):
    """The other one has two batches; its vote on the third is looked at two votes later."""
    votes, messages = two_processes
    votes += [0, 15, agreement._FAILED, agreement._FAILED, agreement._FAILED]
    messages.append(bytes([2]) + b"process 1: broken")
    running = agreement.in_step(range(100))
    assert [next(running), next(running)] == [(0, 0), (1, 15)]
    with pytest.raises(TrainingError, match="process 1: broken"):
        next(running)
    assert votes == []  # as many as the other has cast


def test_the_last_batches_come_though_votes_lie_ahead(two_processes):
    votes, _ = two_processes
    votes += [0] * 6
    assert [batch for batch, _ in agreement.in_step(range(3))] == [0, 1, 2]
    assert votes == []


def test_votes_are_counted_on_all_devices():
    assert jax.device_count() == 8
    sharding, largest = agreement._ballot()
    votes = jax.device_put(jnp.arange(8, dtype=jnp.int32), sharding)
    assert int(largest(votes)) == 7


def test_the_first_process_says_what_all_take_for_true(two_processes):
    _, messages = two_processes
    messages += [b"1", b""]
    assert [agreement.first_says(own) for own in (False, True)] == [False, True]


@pytest.mark.parametrize("others_fail", [True, False])
def test_processes_that_all_fail_know_of_each_other(two_processes, monkeypatch, others_fail):
    class Client:
        def wait_at_barrier(self, name, milliseconds):
            assert name == "ibot_jax/step 7" and milliseconds == 60_000
            if not others_fail:
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(agreement.distributed.global_state, "client", Client())
    assert agreement.all_fail("step 7") == others_fail


def test_a_process_alone_fails_alone():
    assert agreement.all_fail("step 7")


def test_an_error_of_any_kind_is_told_to_the_others_with_its_type():
    assert agreement._message(ValueError("odd")).endswith(b": ValueError: odd")


def test_batches_of_an_evaluation_end_for_all_when_one_is_told_to(two_processes):
    votes, _ = two_processes
    votes += [0, 15, 0, 0, 0, 0]
    running = agreement.until_told(range(100))
    assert next(running) == 0
    with pytest.raises(signals.Interrupted) as told:
        next(running)
    assert told.value.number == 15


def test_words_that_differ_are_named_by_their_process(two_processes, monkeypatch):
    _, messages = two_processes
    digest = hashlib.sha256(b"this config").digest()
    messages += [digest, b"another digest"]
    agreement.require_same("this config", "config")
    with pytest.raises(UserError, match="process 1 has another config than process 0"):
        agreement.require_same("this config", "config")


def test_all_have_to_say_so_and_the_first_ones_text_counts(two_processes, monkeypatch):
    _, messages = two_processes
    messages += [b"1", b"1", b"", b""]
    assert [agreement.all_say(own) for own in (True, False, True, False)] == [True] + [False] * 3
    monkeypatch.setattr(agreement, "gather", lambda own: ["naïve".encode(), own])
    assert agreement.first_text("other") == "naïve"
    monkeypatch.setattr(agreement, "gather", lambda own: [b"", own])
    assert not agreement.first_says(True)


def test_processes_wait_for_the_last_and_fail_with_the_one_that_fails(two_processes, monkeypatch):
    _, messages = two_processes
    slept = []
    monkeypatch.setattr(agreement.time, "sleep", slept.append)
    own = iter([False, True, True])
    # In turn how `done` went there, and whether it was true.
    messages += [b"", b"1", b"", b"", b"", b"1"]
    agreement.wait_for_all(lambda: next(own))
    assert messages == [] and len(slept) == 2 and 0.05 <= min(slept) <= 0.5
    messages += [b"\x01" + b"process 1: full"]
    with pytest.raises(SaveError, match="^process 1: full$"):
        agreement.wait_for_all(lambda: True)


def test_messages_come_whole_up_to_a_length(monkeypatch):
    """Of the one process that there is, by the table of which it has the only line."""
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    for text in (b"", b"abc\0", b"x" * 2000):
        assert agreement.gather(text) == [text]
    assert agreement.gather(b"y" * 2001) == [b"y" * 2000]
    sharding, known = agreement._table()
    assert sharding.mesh.shape == {"process": 1, "device": 8}
    assert known(jax.device_put(np.zeros((1, 5)), sharding)).is_fully_replicated
    monkeypatch.setattr(agreement, "is_alone", lambda: True)
    assert agreement.gather(b"y" * 2001) == [b"y" * 2000]


def test_a_vote_is_cast_by_each_device(monkeypatch):
    assert agreement._count(7) == 7
    monkeypatch.setattr(agreement, "is_alone", lambda: False)
    counted = agreement._count(agreement._FAILED)
    assert isinstance(counted, jax.Array) and int(counted) == agreement._FAILED > max(
        signal.Signals
    )


def test_what_checks_a_batch_may_fail_and_every_wait_is_watched(two_processes):
    votes, messages = two_processes
    watched = []

    def watch(what):
        watched.append(what)
        return contextlib.nullcontext()

    def check():
        raise ValueError("odd")

    votes += [0, 0, 0]
    messages.append(b"")
    with pytest.raises(ValueError, match="odd"):
        next(agreement.in_step(range(9), check, watch))
    assert len(watched) == 2 and "next batch" in watched[0] and "devices" in watched[1]


def test_a_process_alone_makes_no_batch_ahead():
    made = []
    running = agreement.in_step(made.append(i) or i for i in range(9))
    assert [next(running)[0], next(running)[0]] == made == [0, 1]
