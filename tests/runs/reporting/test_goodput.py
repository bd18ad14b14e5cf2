"""The shares of time: a wait for input counts as far as the device has nothing else to do."""

import threading
import time

import pytest

from ibot_jax.runs.reporting.goodput import Goodput

WAIT = 0.3


class Result:
    """Of a step, which the device finishes when it is told to."""

    def __init__(self):
        self._over = threading.Event()

    def finish(self):
        self._over.set()
        time.sleep(0.05)  # for the thread that waits for it

    def block_until_ready(self):
        self._over.wait()
        return self


@pytest.fixture
def goodput():
    made = Goodput()
    yield made
    made.close()


def slow(number):
    for index in range(number):
        time.sleep(WAIT)
        yield index


def shares(goodput):
    found = goodput.shares()
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    return {name: share for name, share in found.items() if share > 0.02}


def test_the_first_batch_keeps_the_device_waiting(goodput):
    assert list(goodput.fed(slow(1))) == [0]
    assert shares(goodput) == {"input": pytest.approx(1, abs=0.1)}


def test_a_wait_while_the_device_computes_costs_nothing(goodput):
    result = Result()
    goodput.step_given(result)
    list(goodput.fed(slow(1)))
    assert shares(goodput) == {"step": pytest.approx(1, abs=0.02)}
    result.finish()


def test_what_is_left_of_a_wait_when_the_device_is_done_counts(goodput):
    """The device finishes at about a half of the wait for two batches."""
    result = Result()
    goodput.step_given(result)
    threading.Timer(WAIT, result.finish).start()
    batches = iter(goodput.fed([0]))
    next(batches)

    def waits():
        time.sleep(2 * WAIT)
        yield 0

    list(goodput.fed(waits()))
    found = shares(goodput)
    assert found == {"step": pytest.approx(0.5, abs=0.15), "input": pytest.approx(0.5, abs=0.15)}


def test_all_steps_that_were_given_count(goodput):
    """One is done, the device has another one."""
    done, other = Result(), Result()
    goodput.step_given(done)
    goodput.step_given(other)
    done.finish()
    list(goodput.fed(slow(1)))
    assert "input" not in shares(goodput)
    other.finish()


def test_what_is_named_has_its_share_and_a_note_begins_anew(goodput):
    for what in ("compile", "save"):
        with goodput.spent(what):
            time.sleep(WAIT)
    half = pytest.approx(0.5, abs=0.05)
    assert shares(goodput) == {"compile": half, "save": half}
    goodput.note()
    with goodput.spent("evaluation"):
        time.sleep(WAIT)
    assert shares(goodput) == {"evaluation": pytest.approx(1, abs=0.05)}
    assert str(goodput).startswith(("compiling 3", "saving 3", "evaluating 3"))
    assert "waiting for input 0.0 %" in str(goodput)


def test_an_error_of_a_batch_passes(goodput):
    def broken():
        yield 0
        raise OSError("gone")

    batches = goodput.fed(broken())
    assert next(batches) == 0
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_a_step_that_fails_is_met_elsewhere(goodput):
    class Failing:
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    goodput.step_given(Failing())
    time.sleep(0.1)
    list(goodput.fed(slow(1)))
    assert shares(goodput)["input"] > 0.5
