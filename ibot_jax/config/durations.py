"""Lengths of time as a config writes them: "10 epochs", "5000 steps", "1e6 examples", "10%"."""

import math
import re

EXAMPLES = '"10 epochs", "5000 steps" or "1e6 examples"'
LONGEST = 1e12  # in any unit: what is longer is a slip
_UNITS = {"epoch": "epochs", "step": "steps", "example": "examples", "%": "%", "percent": "%"}


def parse(text: str) -> tuple[float, str]:
    """Splits "10 epochs" into (10.0, "epochs"); a bare number means epochs.

    "10%" and "10 percent" of a run are (10.0, "%").

    Raises:
      ValueError: with what is wrong in words, to be put behind the text.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([a-z]*|%)\s*", text)
    unit = _UNITS.get((match.group(2) or "epochs").removesuffix("s")) if match else None
    try:
        number = float(match.group(1)) if match else math.nan
    except ValueError:
        number = math.nan
    if unit is None or math.isnan(number):
        raise ValueError(f"is no duration; write it as {EXAMPLES}")
    if number < 0:
        raise ValueError("is negative; a duration begins at 0")
    if not number <= LONGEST:
        raise ValueError(f"is longer than any run; the most is {LONGEST:g}")
    if unit == "%" and number > 100:
        raise ValueError("is more than the whole run; write at most 100%")
    return number, unit


def to_steps(
    text: str, batch_size: int, steps_per_epoch: float, total_steps: float | None = None
) -> int:
    """Returns a duration in whole steps.

    Args:
      text: as for `parse`.
      batch_size: images a step.
      steps_per_epoch: of the data.
      total_steps: of the run, for shares of it.

    Raises:
      ValueError: as `parse`; or if it is a share, and no run is given.
    """
    number, unit = parse(text)
    if unit == "%":
        if total_steps is None:
            raise ValueError(f"is a share of itself; write it as {EXAMPLES}")
        return round(number / 100 * total_steps)
    if unit == "examples":
        return round(number / batch_size)
    return round(number * steps_per_epoch if unit == "epochs" else number)


def share(text: str, whole: str, batch_size: int) -> float:
    """Returns how much of a run of length `whole` a duration is; NaN where only the data can tell.

    Raises:
      ValueError: as `parse`.
    """
    number, unit = parse(text)
    total, total_unit = parse(whole)
    if unit == "%":
        return number / 100
    in_steps = {"steps": 1.0, "examples": 1 / batch_size}
    if unit in in_steps and total_unit in in_steps:
        number, total = number * in_steps[unit], total * in_steps[total_unit]
    elif unit != total_unit:
        return math.nan
    return number / total if total else math.nan
