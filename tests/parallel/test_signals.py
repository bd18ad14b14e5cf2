"""Signals; runs that are told to stop are tested in test_ends.py."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ibot_jax.parallel import signals
from ibot_jax.parallel.signals import SIGNALS, caught_signals


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


def ended(code):
    """Runs a program; returns its exit status and what it wrote."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, time\nfrom ibot_jax.parallel import signals\n" + code,
        ],
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


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        ("SIGINT", 130, "interrupted; the same command goes on"),
        ("SIGTERM", 143, "ended by SIGTERM"),
        ("SIGHUP", 129, "ended by SIGHUP"),
    ],
)
def test_a_command_ends_at_once_but_for_what_is_to_be_done_before(number, status, line):
    code = f"""
with signals.ending("interrupted; the same command goes on"):
    with signals.before_end(lambda: print("not this", flush=True)):
        pass
    with signals.before_end(lambda: print("removed", flush=True)), signals.before_end(dict().pop):
        try:
            os.kill(os.getpid(), signal.{number})
        finally:
            print("goes on")
"""
    assert ended(code) == (status, f"removed\n{line}\n")


def test_what_a_run_has_noted_ends_nothing_after_the_run():
    code = f"""
with signals.ending():
    with signals.caught_signals() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({signals._DEAF_SECONDS + 1})
    print("goes on", *caught)
"""
    status, said = ended(code)
    assert status == 0 and f"goes on {int(signal.SIGTERM)}\n" in said


def test_a_command_ends_while_a_library_computes():
    """Python's handlers wait for the main thread, which may be in a compiler for minutes."""
    code = """
import ctypes, threading
with signals.ending():
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    libc = ctypes.CDLL(None)
    until = time.monotonic() + 30
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    while time.monotonic() < until:
        libc.usleep(30_000_000)
print("goes on")
"""
    assert ended(code) == (143, "ended by SIGTERM\n")


def test_what_ends_well_hears_signals_as_before():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    threads = threading.active_count()
    with signals.ending():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert threading.active_count() == threads


def test_a_late_second_ctrl_c_ends_a_run_that_saves():
    code = """
signals.AGAIN_SECONDS = 0.2
with signals.ending(), signals.caught_signals():
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
with signals.ending(), signals.caught_signals() as caught:
    os.kill(os.getpid(), signal.SIGHUP)
    print(caught)
"""
    assert ended(code) == (0, "[]\n")
