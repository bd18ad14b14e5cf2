"""Signals; runs that are told to stop are tested in test_ends.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ibot_jax import signals
from ibot_jax.signals import SIGNALS, Interrupted, caught_signals


def _tell(number):
    os.kill(os.getpid(), number)
    time.sleep(10)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_of_a_run_are_noted_however_often_they_come(number, capfd):
    before = signal.getsignal(number)
    with caught_signals() as caught:
        assert caught == [] and signals.pending() == 0
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert caught == [number] * 3
        assert signals.pending() == number
    assert signals.pending() == 0
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_a_command_is_raised(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as told, signals.raised():
        _tell(number)
    assert told.value.number == number
    assert signal.getsignal(number) == before


def test_what_a_library_makes_of_the_interruption_remains_one():
    def imported():
        try:
            _tell(signal.SIGTERM)
        except Interrupted:
            raise ImportError("numpy failed to import") from None

    with pytest.raises(Interrupted), signals.raised():
        imported()


def test_errors_without_a_signal_are_errors():
    with pytest.raises(ImportError), signals.raised():
        raise ImportError


def ended(code):
    """Runs a program; returns its exit status and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", "import os, signal, time\nfrom ibot_jax import signals\n" + code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "ended by SIGTERM"),
        ("SIGHUP", 129, "ended by SIGHUP"),
    ],
)
def test_a_program_that_has_begun_nothing_ends_at_once(number, status, line):
    code = f"signals.end_at_once()\nos.kill(os.getpid(), signal.{number})\nprint('goes on')"
    assert ended(code) == (status, f"{line}\n")


def test_an_interruption_that_is_lost_or_repeated_ends_all_the_same():
    lost = """
signals._TIDYING_SECONDS = 0.1
with signals.raised():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except BaseException:
        pass
    time.sleep(30)
print('goes on')
"""
    repeated = """
with signals.raised():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
print('goes on')
"""
    for code in (lost, repeated):
        assert ended(code) == (143, "ended by SIGTERM\n")


def test_a_late_second_ctrl_c_ends_a_run_that_saves():
    code = """
signals.AGAIN_SECONDS = 0.2
with signals.caught_signals():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    print('goes on', flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print('goes on')
"""
    status, written = ended(code)
    assert status == 130
    assert written.count("goes on") == 1


def test_under_nohup_the_end_of_the_terminal_is_no_signal():
    code = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signals.end_at_once()
with signals.raised(), signals.caught_signals() as caught:
    os.kill(os.getpid(), signal.SIGHUP)
    print(caught)
"""
    assert ended(code) == (0, "[]\n")
