"""Sides that are timed in turns, so that a machine that slows down slows all of them."""

from collections.abc import Callable, Mapping


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Returns what each side says when it has its turn, round by round.

    Each round begins with another side.

    Args:
      sides: functions by name, which return the seconds that they took.
      rounds: in each of which every side has a turn.
    """
    names, found = list(sides), {name: [] for name in sides}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found
