"""Keys of a config: default, meaning, range and kind of each stand together, in a table of `Key`s.

{"optim.lr": Key(5e-4, "learning rate", Between(1e-10, 100))} is all that a config is made from:
the ConfigDict, the checks of types and ranges, `--help=config`, hints for names that are not quite
right, and which keys a continued run may change.
"""

import dataclasses
import difflib
import enum
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from ibot_jax.config import durations
from ibot_jax.config.other_names import KNOWN_AS

# Smaller numbers are 0 in float32.
_SMALLEST = 2.0**-126


class Kind(enum.Enum):
    """What a key decides; only what is learned may not change when a run is continued."""

    LEARNED = "what is learned"
    EXECUTED = "how it is computed: a run may be continued with another value"
    REPORTED = "what is measured and kept: a run may be continued with another value"


class Rule(Protocol):
    """Which values of the right type a key takes; str() says it in words."""

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to be put behind it; "" if nothing is."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, or `off`; of a tuple, each of its entries."""

    low: float
    high: float
    off: float | None = None
    entries: int | None = None  # of a tuple; None is any number of them

    def problem(self, value: float | tuple) -> str:
        """Returns what is wrong with a value."""
        numbers = entries(value)
        if self.entries is not None and len(numbers) != self.entries:
            return f"needs {self.entries} entries"
        fits = all(self.low <= number <= self.high or number == self.off for number in numbers)
        return "" if fits else f"must be {self}"

    def __str__(self) -> str:
        off = "" if self.off is None else f"{self.off:g}, or "
        return f"{off}from {self.low:.12g} to {self.high:.12g}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """Two numbers, the first not above the second, both from `low` to `high`."""

    low: float
    high: float

    def problem(self, value: tuple) -> str:
        """Returns what is wrong with a value."""
        if len(value) != 2:
            return "needs 2 entries"
        return "" if self.low <= value[0] <= value[1] <= self.high else f"must be {self}"

    def __str__(self) -> str:
        return f"two rising numbers from {self.low:.12g} to {self.high:.12g}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def problem(self, value: str) -> str:
        """Returns what is wrong with a value."""
        return "" if value in self.words else f"is unknown; use {self}"

    def __str__(self) -> str:
        return " or ".join(self.words)


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of time; by option "" for never, or a share of the run."""

    never: bool = False
    share: bool = True

    def problem(self, value: str) -> str:
        """Returns what is wrong with a value."""
        if self.never and not value:
            return ""
        try:
            unit = durations.parse(value)[1]
        except ValueError as error:
            return str(error)
        if unit == "%" and not self.share:
            return f"is a share of itself; write it as {durations.EXAMPLES}"
        return ""

    def __str__(self) -> str:
        forms = ["epochs", "steps", "examples", *(["% of the run"] if self.share else [])]
        return f"a number of {', '.join(forms[:-1])} or {forms[-1]}" + ", or ''" * self.never


@dataclasses.dataclass(frozen=True)
class Anything:
    """Every value of the type."""

    def problem(self, value: Any) -> str:
        """Returns that nothing is wrong."""
        del value
        return ""

    def __str__(self) -> str:
        return ""


@dataclasses.dataclass(frozen=True)
class Key:
    """All that is known of a key without data, devices and other keys.

    Attributes:
      default: its value if nothing else is said; values have its type.
      meaning: in a few words.
      rule: which values it takes.
      kind: what it decides.
    """

    default: bool | int | float | str | tuple
    meaning: str
    rule: Rule = Anything()
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
        if problem := self.rule.problem(value):
            return problem
        if any(0 < abs(number) < _SMALLEST for number in numbers):
            return f"is 0 in float32; write 0, or at least {_SMALLEST:.2g}"
        return ""


Keys = Mapping[str, Key]  # by dotted name


def entries(value: Any) -> tuple:
    """Returns the entries of a value that has several, or the one that it is."""
    return value if isinstance(value, tuple) else (value,)


def type_name(default: Any) -> str:
    """Returns in words what a key with this default takes."""
    if isinstance(default, tuple):
        example = ",".join(map(str, default))
        whole = "whole " * isinstance(default[0], int)
        return f"{len(default)} {whole}numbers such as {example}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[type(default)]


def make_config(keys: Keys) -> ConfigDict:
    """Returns the config of all defaults, a section for each part of a key before a dot."""
    config = ConfigDict()
    for name, key in keys.items():
        *sections, leaf = name.split(".")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ConfigDict()
            place = place[section]
        place[leaf] = key.default
    return config


def free_keys(keys: Keys) -> set[str]:
    """Returns the keys that may change between a run and its continuation."""
    return {name for name, key in keys.items() if key.kind is not Kind.LEARNED}


def unknown_key(name: str, keys: Iterable[str]) -> str:
    """Returns a sentence that says that a config has no such key, and names the likeliest ones."""
    leaf = _leaf(name)
    words = {key: {_leaf(key), *KNOWN_AS.get(key, "").split()} for key in keys}
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.75)
    # Also a right name in the wrong section, or none ("lr", "model.lr"), or another word for it.
    close += [key for key in words if leaf in words[key] and key not in close]
    if not close:
        key_of = {word: key for key in words for word in words[key]}
        close = [key_of[word] for word in difflib.get_close_matches(leaf, key_of, n=1, cutoff=0.75)]
    hint = f"did you mean {' or '.join(close)}?" if close else "--help=config lists all keys"
    return f"config.{name} is no key of the config; {hint}"


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def listing(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns all keys in words: a line with the default, then meaning and range.

    Args:
      keys: to list.
      sections: of what each section, "" for no section, speaks.
    """
    lines = []
    for section, about in sections.items():
        lines += ["", f"{section or 'the run'}: {about}"]
        for name, key in _of_section(keys, section).items():
            free = "" if key.kind is Kind.LEARNED else "a resumed run may change it"
            about = "; ".join(filter(None, (key.meaning, str(key.rule), free)))
            lines.append(f"  --config.{name}={_shown(key.default)}")
            lines += textwrap.wrap(about, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines[1:])


def _of_section(keys: Keys, section: str) -> Keys:
    return {name: key for name, key in keys.items() if name.rpartition(".")[0] == section}


def groups(keys: Keys, sections: Mapping[str, str]) -> str:
    """Returns the names of all keys by section; arguments as of `listing`."""
    lines = ["Keys of the config:"]
    for section, about in sections.items():
        names = map(_leaf, _of_section(keys, section))
        lines += ["", f"  {section or 'the run'}: {about}"]
        lines += textwrap.wrap(
            ", ".join(names), 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """Returns a value as one writes it in a shell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"'({','.join(f'{entry:.4g}' for entry in value)}{',' * (len(value) == 1)})'"
    return f'"{value}"' if isinstance(value, str) else f"{value:.12g}"
