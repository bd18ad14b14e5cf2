"""How reports are shown to people."""

import statistics
from collections.abc import Sequence


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a line for each name and its value, values below each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def scaled(number: float) -> str:
    """Returns three digits or more and the prefix: "4.60 G"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= factor:
            return f"{number / factor:.2f} {prefix}"
    return f"{number / 1e3:.2f} k"


def speed(images: int, seconds: Sequence[float]) -> str:
    """Returns images a second at the median, the lowest and the highest of some seconds."""
    low, high = images / max(seconds), images / min(seconds)
    return f"{images / statistics.median(seconds):.4g} images/s ({low:.4g} to {high:.4g})"


def ratio(of_rounds: Sequence[float]) -> str:
    """Returns the median of a ratio, and the lowest and the highest, one for each round."""
    return (
        f"{statistics.median(of_rounds):.2f}, the median of {len(of_rounds)} rounds "
        f"({min(of_rounds):.2f} to {max(of_rounds):.2f})"
    )
