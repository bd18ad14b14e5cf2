"""What waits for long is named, again and again, and nothing is ended."""

import logging
import re
import socket
import threading

import pytest

from ibot_jax.parallel.agreement import in_step
from ibot_jax.parallel.watchdog import Watchdog


class Lines(logging.Handler):
    """Counts warnings, so that a test waits for them and not for a time."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self._more = threading.Condition()

    def emit(self, record):
        with self._more:
            self.texts.append(record.getMessage())
            self._more.notify_all()

    def wait_for(self, number):
        with self._more:
            assert self._more.wait_for(lambda: len(self.texts) >= number, timeout=60)


@pytest.fixture
def lines():
    handler = Lines()
    logger = logging.getLogger("ibot_jax.parallel.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_slow_input_is_named_with_its_host_until_the_batch_comes(lines):
    def batches():
        yield "quick"
        lines.wait_for(2)
        yield "slow"

    watchdog = Watchdog(0.01, "process 3 of 4")
    assert [batch for batch, _ in in_step(batches(), watch=watchdog.waiting)] == ["quick", "slow"]
    pattern = rf"process 3 of 4 on {re.escape(socket.gethostname())} has waited \d+ s for its next"
    assert re.match(pattern, lines.texts[0])


def test_each_warning_comes_after_twice_the_wait_of_the_one_before(lines, monkeypatch):
    """On a clock of its own: the pauses are 5, 5, 10 and 20 s."""
    now = [100.0]

    class Over:
        def wait(self, seconds):
            now[0] += seconds
            return len(lines.texts) == 4

    monkeypatch.setattr("ibot_jax.parallel.watchdog.time.monotonic", lambda: now[0])
    Watchdog(5.0)._warn("x", Over())
    waited = [int(re.search(r"waited (\d+) s", text).group(1)) for text in lines.texts]
    assert waited == [5, 10, 20, 40]


def test_what_ends_in_time_is_not_named(lines):
    with Watchdog(3600.0).waiting("x"):
        pass
    with pytest.raises(ZeroDivisionError), Watchdog(3600.0).waiting("x"):
        raise ZeroDivisionError
    assert lines.texts == []


def test_zero_seconds_turn_it_off(lines):
    before = threading.active_count()
    with Watchdog(0.0).waiting("x"):
        assert threading.active_count() == before
