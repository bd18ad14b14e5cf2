"""A process alone agrees with itself; several are tested in test_multihost.py."""

import jax
import jax.numpy as jnp
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
