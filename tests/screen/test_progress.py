"""Progress is shown by the first process alone, and by that on a terminal alone."""

import pathlib
import sys
import time

import jax
import pytest

from ibot_jax.screen.progress import busy, clock, is_shown, progress, write_line

PACKAGE = pathlib.Path(__file__).parent.parent.parent / "ibot_jax"


@pytest.mark.parametrize(("terminal", "process"), [(True, 0), (True, 1), (False, 0)])
def test_a_bar_is_for_the_terminal_of_the_first_process(terminal, process, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    assert list(progress("abc", 5, "letters", start=2)) == ["a", "b", "c"]
    shown = terminal and process == 0
    err = capsys.readouterr().err
    assert is_shown() == shown == bool(err)
    assert not shown or ("letters" in err and "2/5" in err)


def test_lines_go_where_they_are_sent(capsys):
    write_line("a\nb", sys.stdout)
    write_line("c", sys.stderr)
    assert capsys.readouterr() == ("a\nb\n", "c\n")


def test_the_library_of_bars_is_named_in_one_place():
    naming = [path.name for path in PACKAGE.rglob("*.py") if "tqdm" in path.read_text()]
    assert naming == ["progress.py"]


class Log:
    """A stderr that is no terminal, and a minute of 50 ms."""

    def __init__(self, capsys, monkeypatch):
        monkeypatch.setattr("ibot_jax.screen.progress._LINE_SECONDS", 0.05)
        self._capsys, self._text = capsys, ""

    def getvalue(self):
        self._text += self._capsys.readouterr().err
        return self._text

    def said(self, text):
        """Waits for a text, and returns all there is."""
        deadline = time.monotonic() + 60
        while text not in self.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._text


@pytest.fixture
def log(capsys, monkeypatch):
    return Log(capsys, monkeypatch)


def test_a_log_has_a_line_a_minute_with_rate_and_time_left(log):
    """Also while one item takes its time."""
    items = progress(range(5), 2_005, "letters", start=2_000)
    next(items)
    assert log.said("so far").startswith("letters: 2,000 of 2,005, 0:00:00 so far\n")
    next(items)
    next(items)
    last = log.said("2,002 of 2,005, ").split("2,002")[1]
    assert last.startswith(" of 2,005, ") and "/s, 0:00:0" in last and " left\n" in last
    items.close()
    lines = log.getvalue()
    time.sleep(0.2)
    assert log.getvalue() == lines


def test_what_has_no_items_says_for_how_long_it_goes_on(log):
    with busy("compiling"):
        assert log.said("compiling: 0:00:00 so far\n")
    with pytest.raises(ZeroDivisionError), busy("compiling"):
        raise ZeroDivisionError


def test_what_is_over_within_a_minute_leaves_a_log_alone(monkeypatch, capsys):
    assert list(progress("abc", 3, "letters")) == ["a", "b", "c"]
    with busy("compiling"):
        pass
    assert capsys.readouterr() == ("", "")


def test_others_than_the_first_process_say_nothing(log, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with busy("compiling"):
        time.sleep(0.2)
    assert log.getvalue() == ""


def test_lengths_of_time_are_hours_minutes_and_seconds():
    assert (clock(0.4), clock(125), clock(7384.6)) == ("0:00:00", "0:02:05", "2:03:05")
