"""Which values of its type a key takes, as a check and in words."""

import dataclasses
from typing import Any, Protocol

from ibot_jax.config import durations, globs, selections


class Range(Protocol):
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
class Window:
    """Two numbers: a centre, which may be negative, and a width."""

    most: float

    def problem(self, value: tuple) -> str:
        """Returns what is wrong with a value."""
        if len(value) != 2:
            return "needs 2 entries"
        center, width = value
        return "" if abs(center) <= self.most and 0 <= width <= self.most else f"must be {self}"

    def __str__(self) -> str:
        return f"a centre from -{self.most:g} to {self.most:g} and a width from 0 on"


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
class SomeOf:
    """Any of some words, with spaces between, or none."""

    words: tuple[str, ...]

    def problem(self, value: str) -> str:
        """Returns what is wrong with a value."""
        unknown = [word for word in value.split() if word not in self.words]
        return f"has {unknown[0]!r}, which is unknown; use {self}" if unknown else ""

    def __str__(self) -> str:
        return f"any of {', '.join(self.words)}"


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
class ByGlob:
    """Entries "GLOB: VALUE; GLOB: VALUE", each value of a range."""

    values: Between | Duration

    def problem(self, value: str) -> str:
        """Returns what is wrong with a value."""
        try:
            for glob, text in globs.parse(value):
                if problem := self._problem(text):
                    return f"has {text!r} for {glob!r}, which {problem}"
        except ValueError as error:
            return str(error)
        return ""

    def _problem(self, text: str) -> str:
        if isinstance(self.values, Duration):
            return self.values.problem(text)
        try:
            return self.values.problem(float(text))
        except ValueError:
            return "is no number"

    def __str__(self) -> str:
        return f'"GLOB: VALUE; GLOB: VALUE", values {self.values}'


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Numbers of blocks, or "" for all."""

    def problem(self, value: str) -> str:
        """Returns what is wrong with a value."""
        try:
            selections.blocks(value)
        except ValueError as error:
            return str(error)
        return ""

    def __str__(self) -> str:
        return "numbers such as 0-5 or 0,2,4; '' is all, as many as there are here"


@dataclasses.dataclass(frozen=True)
class Anything:
    """Every value of the type."""

    def problem(self, value: Any) -> str:
        """Returns that nothing is wrong."""
        del value
        return ""

    def __str__(self) -> str:
        return ""


ANYTHING = Anything()


def entries(value: Any) -> tuple:
    """Returns the entries of a value that has several, or the one that it is."""
    return value if isinstance(value, tuple) else (value,)
