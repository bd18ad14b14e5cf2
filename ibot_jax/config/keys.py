"""Keys of a config: default, meaning, range and kind of each stand together, in a table of `Key`s.

{"optim.lr": Key(5e-4, "learning rate", Between(1e-10, 100))} is all that a config is made from:
its values, the checks of types and ranges, `--help=config` and docs/config.md, hints for names that
are not quite right, and which keys a continued run may change.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

from ibot_jax.config.ranges import ANYTHING, Range, entries

# Smaller numbers are 0 in float32.
_SMALLEST = 2.0**-126


class Kind(enum.Enum):
    """What a key decides, in a word.

    Only keys that are learned may not change when a run is continued; those that are executed are
    no part of an export.
    """

    LEARNED = "learned"
    EXECUTED = "executed"
    REPORTED = "reported"


@dataclasses.dataclass(frozen=True)
class Key:
    """All that is known of a key without data, devices and other keys.

    Attributes:
      default: its value if nothing else is said; values have its type.
      meaning: in a few words.
      takes: which values it takes.
      kind: what it decides.
    """

    default: bool | int | float | str | tuple
    meaning: str
    takes: Range = ANYTHING
    kind: Kind = Kind.LEARNED

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to be put behind it; "" if nothing is."""
        kind = type(entries(self.default)[0])
        fits = isinstance(value, tuple) == isinstance(self.default, tuple) and all(
            type(entry) is kind or (kind is float and type(entry) is int)
            for entry in entries(value)
        )
        if not fits:
            return f"has the wrong type; it takes {type_name(self.default)}"
        numbers = [entry for entry in entries(value) if isinstance(entry, float)]
        if not all(map(math.isfinite, numbers)):
            return "is not finite; give a number"
        if problem := self.takes.problem(value):
            return problem
        if any(0 < abs(number) < _SMALLEST for number in numbers):
            return f"is 0 in float32; write 0, or at least {_SMALLEST:.2g}"
        return ""


Keys = Mapping[str, Key]  # by dotted name


def type_name(default: Any) -> str:
    """Returns in words what a key with this default takes."""
    if isinstance(default, tuple):
        example = ",".join(map(str, default))
        whole = "whole " * isinstance(default[0], int)
        number = f"{len(default)} " * (len(default) > 1)  # those of one may have any number
        return f"{number}{whole}numbers such as {example}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[type(default)]


def of_kind(keys: Keys, *kinds: Kind) -> set[str]:
    """Returns the names of the keys that decide such things."""
    return {name for name, key in keys.items() if key.kind in kinds}
