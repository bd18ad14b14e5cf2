"""The shares of time: a wait for input counts as far as the device has nothing else to do."""

import threading
import time

import pytest

from ibot_jax.runs.reporting.goodput import Goodput


class Time:
    """A clock that stands still unless it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


class Result:
    """Of a step, which the device finishes when it is told to."""

    def __init__(self):
        self.over = threading.Event()

    def block_until_ready(self):
        self.over.wait()
        return self


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr("ibot_jax.runs.reporting.goodput.time.monotonic", clock)
    return clock


@pytest.fixture
def goodput(clock):
    made = Goodput()
    yield made
    made.close()


@pytest.fixture
def device(goodput):
    """Returns a function that finishes a step, and waits until that is noticed."""

    def finish(result):
        number = goodput._finished[0]
        result.over.set()
        while goodput._finished[0] == number:
            time.sleep(0.001)

    return finish


def shares(goodput):
    found = goodput.shares()
    assert sum(found.values()) == pytest.approx(1)
    return {name: pytest.approx(share) for name, share in found.items() if share}


def test_the_first_batch_keeps_the_device_waiting(goodput, clock):
    def batches():
        clock.passes(10)
        yield 0

    for batch in goodput.fed(batches()):
        assert batch == 0
        clock.passes(30)
    assert shares(goodput) == {"input": 0.25, "step": 0.75}


def test_a_wait_while_the_device_computes_costs_nothing(goodput, clock):
    result = Result()
    goodput.step_given(result)

    def batches():
        clock.passes(10)
        yield 0

    list(goodput.fed(batches()))
    assert shares(goodput) == {"step": 1}
    result.over.set()


def test_what_is_left_of_a_wait_when_the_device_is_done_counts(goodput, clock, device):
    result = Result()
    goodput.step_given(result)

    def batches():
        clock.passes(30)
        device(result)
        clock.passes(10)
        yield 0

    list(goodput.fed(batches()))
    assert shares(goodput) == {"step": 0.75, "input": 0.25}


def test_all_steps_that_were_given_count(goodput, clock, device):
    """One is done, the device has another one; then it has none, from before the wait on."""
    done, other = Result(), Result()
    goodput.step_given(done)
    goodput.step_given(other)
    device(done)

    def batches():
        clock.passes(10)
        yield 0
        clock.passes(10)
        yield 1

    fed = goodput.fed(batches())
    next(fed)
    assert shares(goodput) == {"step": 1}
    device(other)
    clock.passes(20)
    next(fed)
    assert shares(goodput) == {"step": 0.75, "input": 0.25}


def test_what_is_named_has_its_share_and_a_note_begins_anew(goodput, clock):
    for what, seconds in (("compile", 30), ("save", 10)):
        with goodput.spent(what):
            clock.passes(seconds)
    assert shares(goodput) == {"compile": 0.75, "save": 0.25}
    goodput.note()
    with goodput.spent("evaluation"):
        clock.passes(60)
    assert shares(goodput) == {"evaluation": 1}
    assert str(goodput) == (
        "evaluating 60.0 %, compiling 30.0 %, saving 10.0 %, steps 0.0 %, waiting for input 0.0 %"
    )


def test_an_error_of_a_batch_passes(goodput):
    def broken():
        yield 0
        raise OSError("gone")

    batches = goodput.fed(broken())
    assert next(batches) == 0
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_a_step_that_fails_is_met_elsewhere(goodput, clock, device):
    class Failing(Result):
        def block_until_ready(self):
            super().block_until_ready()
            raise RuntimeError("out of memory")

    result = Failing()
    goodput.step_given(result)
    device(result)
    clock.passes(1)
    assert shares(goodput) == {"step": 1}
