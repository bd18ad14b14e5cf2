"""Progress is shown by the first process alone, and by that on a terminal alone."""

import pathlib
import sys

import jax
import pytest

from ibot_jax.cli.progress import is_shown, progress, write_line

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
