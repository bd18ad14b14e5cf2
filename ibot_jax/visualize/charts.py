"""Line charts as inline SVG, legible on a phone; `report.js` adds what the pointer shows."""

import dataclasses
import html
import json
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 360, 210  # CSS pixels at scale 1, the width of a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 10, 26
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
      unit: of y, or "".
      series: one curve each, not empty.
      x_name: what x counts.
      reference: name and height of a dashed line; with it the y axis begins at 0.
    """
    series = [thinned(curve) for curve in series]
    frame = _frame(series, reference)
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
    """The ends of both axes."""

    left: float
    right: float
    low: float
    high: float

    def across(self, x: float) -> float:
        """Returns where x lies in the drawing."""
        share = (x - self.left) / (self.right - self.left)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def up(self, y: float) -> float:
        """Returns where y lies in the drawing."""
        share = (y - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _frame(series: Sequence[Series], reference: tuple[str, float] | None) -> _Frame:
    left, right = min(curve.x[0] for curve in series), max(curve.x[-1] for curve in series)
    right = right if right > left else left + 1
    values = [y for curve in series for y in curve.y]
    if reference:
        return _Frame(left, right, 0.0, 1.12 * max(*values, reference[1]))
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return _Frame(left, right, low - room, high + room)


def _axes(frame: _Frame, x_name: str) -> list[str]:
    """Returns gridlines, and numbers beside and below them."""
    bottom = HEIGHT - 8
    marks = [_text(_LEFT - 6, bottom, "end", x_name)]
    for y in ticks(frame.low, frame.high):
        marks += [_line("grid", frame.up(y)), _text(_LEFT - 6, frame.up(y) + 4, "end", show(y))]
    for x in ticks(frame.left, frame.right):
        marks.append(_text(frame.across(x), bottom, "middle", show(x)))
    return marks


def _reference(frame: _Frame, name: str, height: float) -> list[str]:
    y = frame.up(height)
    return [_line("reference", y), _text(WIDTH - _RIGHT, y - 5, "end", name)]


def _curve(points: Sequence[tuple[float, float]], kind: str) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = points if len(points) <= _DOTS_UP_TO else []
    circles = [f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots]
    return [f'<polyline class="{kind}" points="{path}"/>', *circles]


def _line(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'


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
