"""Line charts as inline SVG, legible on a phone; `page.js` adds what the pointer shows."""

import dataclasses
import functools
import html
import itertools
import json
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 360, 210  # CSS pixels at scale 1, the width of a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 10, 26  # the left one has room for six characters
_CHARACTER = 6.5
_LIMITS = {"%": (0.0, 100.0), "share": (0.0, 1.0)}  # beyond which no such value lies
_FLAT = 1e-6  # of the largest value: an axis over less would show its values' rounding
_ZERO = 1e-300  # as good as 0
MAX_POINTS = 240  # a curve of more is drawn as the means of so many pieces
_DOTS_UP_TO = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      label: its name.
      x: rising numbers.
      y: as many, all finite.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    x_name: str = "epoch",
    reference: tuple[str, float] | None = None,
) -> str:
    """Returns a chart as HTML: a figure with a legend and an SVG that says in words what it shows.

    Args:
      title: of the chart.
      unit: of y, or "". The axis of a percentage ("%") or a "share" ends where those do.
      series: one curve each, not empty.
      x_name: what x counts.
      reference: name and height of a dashed line; with it the y axis begins at 0.
    """
    series = [thinned(curve) for curve in series]
    frame = _frame(series, reference, _LIMITS.get(unit, (-math.inf, math.inf)))
    marks = _axes(frame, x_name)
    if reference:
        marks += _reference(frame, *reference)
    data = []
    for number, curve in enumerate(series):
        points = [(frame.across(x), frame.up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        marks += _curve(points, f"s{number}")
        texts = [(show(x), show(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        rows = [[*point, *text] for point, text in zip(points, texts, strict=True)]
        data.append({"label": curve.label, "points": rows})
    legend = "".join(
        f'<li class="s{number}">{html.escape(curve.label)} <b>{show(curve.y[-1])}</b></li>'
        for number, curve in enumerate(series)
    )
    words = html.escape(". ".join(describe(curve, x_name) for curve in series))
    attribute = html.escape(json.dumps({"x": x_name, "series": data}, separators=(",", ":")))
    heading = html.escape(title) + (f" <small>{html.escape(unit)}</small>" if unit else "")
    return (
        f'<figure class="chart"><figcaption><h3>{heading}</h3><ul>{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} by {x_name}. {words}." data-chart="{attribute}">'
        f'{"".join(marks)}<g class="pointed"></g></svg>'
        f'<output class="tip" hidden=""></output></figure>'
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """The ends of both axes, and where the drawing begins."""

    left: float
    right: float
    low: float
    high: float

    @functools.cached_property
    def margin(self) -> float:
        """Returns the room for the numbers beside the axis."""
        longest = max(map(len, labels(ticks(self.low, self.high))))
        return max(_LEFT, round(_CHARACTER * longest + 9, 1))

    def across(self, x: float) -> float:
        """Returns where x lies in the drawing."""
        share = (x - self.left) / (self.right - self.left)
        return round(self.margin + share * (WIDTH - self.margin - _RIGHT), 1)

    def up(self, y: float) -> float:
        """Returns where y lies in the drawing."""
        share = (y - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _frame(
    series: Sequence[Series], reference: tuple[str, float] | None, limits: tuple[float, float]
) -> _Frame:
    left, right = min(curve.x[0] for curve in series), max(curve.x[-1] for curve in series)
    right = max(right, left + (_FLAT * abs(left) if right > left else 1))
    values = [y for curve in series for y in curve.y]
    if reference:
        return _Frame(left, right, 0.0, 1.12 * max(*values, reference[1]) or 1.0)
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if largest < _ZERO:
        room = 1.0
    else:
        room = 0.06 * (high - low) if high - low > _FLAT * largest else 0.1 * largest
    within = limits[0] <= low and high <= limits[1]
    lowest, highest = limits if within else (-math.inf, math.inf)
    return _Frame(left, right, max(low - room, lowest), min(high + room, highest))


def _axes(frame: _Frame, x_name: str) -> list[str]:
    """Returns gridlines, and numbers beside and below them."""
    bottom, beside = HEIGHT - 8, frame.margin - 6
    marks = [_text(beside, bottom, "end", x_name)]
    heights, places = ticks(frame.low, frame.high), ticks(frame.left, frame.right)
    for y, label in zip(heights, labels(heights), strict=True):
        marks += [_line(frame, "grid", y), _text(beside, frame.up(y) + 4, "end", label)]
    for x, label in zip(places, labels(places), strict=True):
        marks.append(_text(frame.across(x), bottom, "middle", label))
    return marks


def _reference(frame: _Frame, name: str, height: float) -> list[str]:
    above = frame.up(height) - 5
    return [_line(frame, "reference", height), _text(WIDTH - _RIGHT, above, "end", name)]


def _curve(points: Sequence[tuple[float, float]], kind: str) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = points if len(points) <= _DOTS_UP_TO else []
    circles = [f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots]
    return [f'<polyline class="{kind}" points="{path}"/>', *circles]


def _line(frame: _Frame, kind: str, y: float) -> str:
    ends = f'x1="{frame.margin}" x2="{WIDTH - _RIGHT}"'
    return f'<line class="{kind}" {ends} y1="{frame.up(y)}" y2="{frame.up(y)}"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'


def describe(curve: Series, x_name: str) -> str:
    """Returns what a curve shows, in words."""
    return (
        f"{curve.label}: {show(curve.y[0])} at {x_name} {show(curve.x[0])}, {show(curve.y[-1])} at "
        f"{x_name} {show(curve.x[-1])}; lowest {show(min(curve.y))}, highest {show(max(curve.y))}"
    )


def thinned(curve: Series) -> Series:
    """Returns a curve of at most `MAX_POINTS` points: the means of pieces of equal length."""
    if len(curve.x) <= MAX_POINTS:
        return curve
    x, y = (
        [float(piece.mean()) for piece in np.array_split(np.asarray(values), MAX_POINTS)]
        for values in (curve.x, curve.y)
    )
    return Series(curve.label, x, y)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns at most `most` round numbers in [low, high]; their steps are 1, 2 or 5 * 10**n."""
    exponent = math.floor(math.log10((high - low) / most))
    steps = (factor * 10.0 ** (exponent + more) for more in (0, 1, 2) for factor in (1, 2, 5))
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    raise AssertionError("a step of 500 times the range has room")


def labels(values: Sequence[float]) -> list[str]:
    """Returns ticks as text, with as many digits as tell them apart: 0.998, 0.999, 1.000."""
    largest = max(map(abs, values))
    finest = min(b - a for a, b in itertools.pairwise(values))
    last = math.floor(math.log10(finest) + 1e-3)  # the decimal place of their last digit
    if 1e-4 <= largest < 1e7:
        return [f"{value:,.{max(-last, 0)}f}" for value in values]
    return [f"{value:.{_exponent(value) - last}e}" if value else "0" for value in values]


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)) + 1e-9)


def show(value: float) -> str:
    """Returns a number in a few digits: 0.00012, 3.14, 44.8, 1,234."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-4:
        digits = max(2 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.2g}"
