"""Signals; runs that are told to stop are tested in test_resume.py and test_multihost.py."""

import os
import signal

import pytest

from ibot_jax.signals import caught_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_kills(number):
    before = signal.getsignal(number)
    with caught_signals() as caught:
        assert caught == []
        os.kill(os.getpid(), number)
        assert caught == [number]
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before
