"""The loop's signals; whole runs are tested in test_main.py and test_resume.py."""

import os
import signal

import pytest

from ibot_jax.pretrain import _caught_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_kills(number):
    before = signal.getsignal(number)
    with _caught_signals() as caught:
        assert caught == []
        os.kill(os.getpid(), number)
        assert caught == [number]
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before
