"""Errors that are meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line and exits with 2.

    The message names the key or file, the value found, and what would do.
    """


class TrainingError(Exception):
    """A run that cannot go on (a loss that is not finite, too many bad images); exit code 1.

    Unless it is a `SaveError`, the state is saved before it reaches the command line, which prints
    it as one line.
    """


class SaveError(TrainingError):
    """What a run writes cannot be written; the state that was saved last is what it leaves."""
