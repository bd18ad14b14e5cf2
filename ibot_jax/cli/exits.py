"""How every program of this project ends: its exit statuses."""

from ibot_jax.parallel import signals

COMPLETE, FAILED, MISTAKE = 0, 1, 2

MEANINGS = {
    COMPLETE: "complete",
    FAILED: "it cannot go on, or what it measures is not as it should be",
    MISTAKE: "a mistake in the command line, the config or the data",
} | {signals.status_of(number): f"ended by {number.name}" for number in signals.SIGNALS}


def listing() -> str:
    """Returns the table as text, for the end of a program's help."""
    return "exit status:\n" + "\n".join(
        f"  {status:<5}{meaning}" for status, meaning in MEANINGS.items()
    )
