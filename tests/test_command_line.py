"""How commands end."""

import pytest

from ibot_jax.command_line import exit_status
from ibot_jax.errors import TrainingError, UserError


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


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError):
        exit_status(raising(ValueError()))
    with pytest.raises(FileNotFoundError):
        exit_status(raising(FileNotFoundError()), mistakes=(UserError,))
