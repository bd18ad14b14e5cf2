"""How commands end."""

import io
import logging
import os
import subprocess
import sys
import tempfile

import jax
import pytest

from ibot_jax.cli.command_line import exit_status
from ibot_jax.errors import TrainingError, UserError
from ibot_jax.parallel import signals


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("status", [0, 143])
def test_a_command_that_returns_says_its_own_status(status, capsys):
    assert exit_status(lambda: status) == status
    assert exit_status(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("k=0 is\n  too small"), 2, "error: k=0 is too small"),
        (FileNotFoundError(2, "No such file", "a"), 2, "error: [Errno 2] No such file: 'a'"),
        (TrainingError("not finite"), 1, "error: not finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_it_raises_is_one_line(error, status, line, capsys):
    assert exit_status(raising(error)) == status
    assert capsys.readouterr() == ("", f"{line}\n")


def test_notes_of_an_error_are_on_its_line(capsys):
    error = TrainingError("not finite")
    error.add_note("saved at step 3")
    assert exit_status(raising(error)) == 1
    assert capsys.readouterr().err == "error: not finite; saved at step 3\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("range() arg 3\nmust not be zero"),
        OSError(28, "No space left on device"),  # names no file that the user could mend
        RecursionError("too deep"),
        MemoryError(),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert exit_status(raising(error)) == 1
    (file,) = tmp_path.iterdir()
    err = capsys.readouterr().err
    assert err.startswith(f"error: {type(error).__name__}") and err.count("\n") == 1
    assert " ".join(str(error).split()) in err
    assert err.endswith(f"traceback: {file}\n")
    text = file.read_text()
    assert text.startswith("Traceback (most recent call last)") and "raise error" in text


def test_the_line_names_the_last_place_of_this_project(capsys):
    assert exit_status(lambda: signals.in_words("none")) == 1  # raised in Python's enum
    err = capsys.readouterr().err
    assert err.startswith(
        "error: ValueError: 'none' is not a valid Signals (ibot_jax/parallel/signals.py, line "
    )


@pytest.mark.parametrize("error", [ValueError("odd"), UserError("k=0 is too small")])
def test_a_variable_shows_the_traceback(error, monkeypatch, capsys):
    monkeypatch.setenv("IBOT_TRACEBACK", "1")
    exit_status(raising(error))
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and "raise error" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_memory_that_ran_out_comes_with_what_helps(capsys):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    assert exit_status(raising(error)) == 1
    err = capsys.readouterr().err
    assert "Out of memory allocating 9 bytes" in err and "a smaller batch" in err


def test_a_message_as_long_as_a_program_is_cut(capsys):
    exit_status(raising(ValueError("x" * 100_000)))
    assert len(capsys.readouterr().err) < 1000


def test_a_screen_that_is_gone_changes_no_status(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    assert exit_status(raising(UserError("no"))) == 2


def test_a_failed_program_does_not_wait_for_its_threads():
    code = """
import threading, time
from ibot_jax.cli.command_line import leave
threading.Thread(target=time.sleep, args=(1000,)).start()
print("said")
leave(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, text=True)
    assert (done.returncode, done.stdout) == (1, "said\n")


def test_a_name_that_is_no_text_is_printed():
    """Of a folder, say: where Python is strict about what it prints, as in most places."""
    code = (
        "from ibot_jax.cli.command_line import exit_status\n"
        r"raise SystemExit(exit_status(lambda: print('caf\udce9')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert (done.returncode, done.stdout) == (0, b"caf\\udce9\n"), done.stderr


def test_a_reader_that_left_is_no_error():
    code = "from ibot_jax.cli.command_line import leave\nprint('x' * 100)\nleave(0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 0)


def test_a_warning_is_printed_once_in_a_command(capsys):
    def command():
        for image in ("a.png", "b.png", "a.png"):
            logging.getLogger("ibot_jax.data").warning("skipped %s", image)

    assert exit_status(command) == 0
    assert capsys.readouterr().err == "warning: skipped a.png\nwarning: skipped b.png\n"
    assert exit_status(command) == 0
    assert "a.png" in capsys.readouterr().err
