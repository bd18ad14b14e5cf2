"""Charts: where a curve's points lie, what the ticks are, and what is said in words."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ibot_jax.visualize import charts
from ibot_jax.visualize.charts import Series


def parse(text):
    return ElementTree.fromstring(text)  # well-formed, too


def test_points_lie_where_their_values_are():
    """Distances are as those of the values, and numbers beside the axis at their height."""
    curve = Series("k-NN", [0, 1, 4], [10.0, 20.0, 40.0])
    svg = parse(charts.line_chart("Accuracy", "%", [curve])).find("svg")
    points = [point.split(",") for point in svg.find("polyline").get("points").split()]
    x, y = np.array(points, float).T
    np.testing.assert_allclose((x - x[0]) / (x[2] - x[0]), [0, 0.25, 1], atol=2e-3)
    np.testing.assert_allclose((y - y[0]) / (y[2] - y[0]), [0, 1 / 3, 1], atol=2e-3)
    assert y[0] > y[2]  # higher is up
    beside = svg.findall("text[@text-anchor='end']")
    heights = {float(t.text): float(t.get("y")) - 4 for t in beside if t.text != "epoch"}
    assert len(heights) >= 3
    for value, height in heights.items():
        np.testing.assert_allclose(height, np.interp(value, curve.y, y), atol=0.2)
    data = json.loads(svg.get("data-chart"))
    assert [row[2:] for row in data["series"][0]["points"]] == [
        ["0", "10"],
        ["1", "20"],
        ["4", "40"],
    ]


def test_a_chart_says_in_words_what_it_shows():
    text = charts.line_chart("Loss", "nats", [Series("a < b", [1, 2, 3], [5.0, 2.0, 3.25])])
    assert parse(text).find("svg").get("aria-label") == (
        "Loss by epoch. a < b: 5 at epoch 1, 3.25 at epoch 3; lowest 2, highest 5."
    )
    assert "<h3>Loss <small>nats</small></h3>" in text


def test_a_reference_is_in_sight_and_the_axis_begins_at_zero():
    curve = Series("entropy", [0, 1], [2.0, 3.0])
    svg = parse(charts.line_chart("Entropy", "", [curve], reference=("ln 512", 6.24))).find("svg")
    labels = [text.text for text in svg.findall("text")]
    assert "ln 512" in labels and "0" in labels
    line = float(svg.find("line[@class='reference']").get("y1"))
    heights = [float(circle.get("cy")) for circle in svg.findall("circle")]
    assert 0 < line < min(heights)
    # The line and both points are as far above the axis as 6.24, 2 and 3.
    zero = heights[0] + 2 * (heights[0] - heights[1])
    np.testing.assert_allclose((zero - line) / (heights[0] - heights[1]), 6.24, rtol=0.01)


def test_one_point_and_a_constant_are_drawn():
    for curve in (Series("one", [3], [0.0]), Series("same", [0, 1], [7.0, 7.0])):
        text = charts.line_chart("Chart", "", [curve])
        numbers = re.findall(r'c[xy]="([-\d.]+)"', text)
        assert len(numbers) == 2 * len(curve.x)
        assert all(0 <= float(number) <= charts.WIDTH for number in numbers)


def test_a_long_curve_becomes_means_of_pieces():
    values = np.random.default_rng(0).random(10 * charts.MAX_POINTS)
    thin = charts.thinned(Series("noise", np.arange(len(values)), values))
    np.testing.assert_allclose(thin.y, values.reshape(-1, 10).mean(axis=1))
    np.testing.assert_allclose(thin.x, 4.5 + 10 * np.arange(charts.MAX_POINTS))


@pytest.mark.parametrize("seed", range(50))
def test_ticks_are_a_few_round_numbers_within_the_range(seed):
    rng = np.random.default_rng(seed)
    low = rng.normal() * 10.0 ** rng.integers(-5, 5)
    high = low + rng.random() * 10.0 ** rng.integers(-5, 5) + 1e-9
    found = np.array(charts.ticks(low, high))
    room = 1e-6 * (high - low) + 1e-9
    assert 1 <= len(found) <= 5
    assert (found >= low - room).all() and (found <= high + room).all()
    if len(found) > 1:
        step = (found[-1] - found[0]) / (len(found) - 1)
        mantissa = step / 10.0 ** np.floor(np.log10(step) + 1e-6)
        assert np.isclose(mantissa, [1, 2, 5, 10], rtol=1e-3).any()


def axis_numbers(y, unit="", x=None):
    """Returns the texts below and beside the axes of a chart, and the numbers that they say."""
    svg = parse(charts.line_chart("Chart", unit, [Series("curve", x or range(len(y)), y)]))
    texts = [t for t in svg.iter("text") if t.text != "epoch"]
    for text in texts:
        assert 0 <= float(text.get("x")) <= charts.WIDTH
        if text.get("text-anchor") == "end":  # begins within the drawing: 6 pixels a character
            assert float(text.get("x")) - 6 * len(text.text) >= 0
    below = [t.text for t in texts if t.get("text-anchor") == "middle"]
    beside = [t.text for t in texts if t.get("text-anchor") == "end"]
    return below, beside, [float(text.replace(",", "")) for text in beside]


@pytest.mark.parametrize("seed", range(200))
def test_no_number_stands_twice_beside_an_axis(seed):
    """Whatever the range: numbers differ as texts, rise, and are as far apart as they say."""
    rng = np.random.default_rng(seed)
    middle = rng.normal() * 10.0 ** rng.integers(-12, 13)
    width = abs(middle) * 10.0 ** rng.uniform(-9, 3)
    y = (middle + width * rng.random(5)).tolist()
    x = np.sort(middle + width * rng.random(5)).tolist()
    below, beside, numbers = axis_numbers(y, x=x)
    for texts in (below, beside):
        assert 2 <= len(texts) <= 5 and len(set(texts)) == len(texts), texts
    gaps = np.diff(numbers)
    assert (gaps > 0).all()
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("y", "shown"),
    [
        ([12.0, 12.2], ["12.00", "12.05", "12.10", "12.15", "12.20"]),
        ([0.9988, 1.0], ["0.9990", "0.9995", "1.0000"]),
        ([2.0, 9.0], ["2", "4", "6", "8"]),
        ([1e-6, 5e-6], ["1e-06", "2e-06", "3e-06", "4e-06", "5e-06"]),
        ([0.0, 4e-8], ["0", "1e-08", "2e-08", "3e-08", "4e-08"]),
        ([1234567.0, 1234567.0], None),
        ([1e300, 1e300], None),
        ([5e-324, 0.0], None),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(y, shown):
    _, beside, _ = axis_numbers(y)
    assert beside == shown if shown else len(set(beside)) == len(beside) >= 2


@pytest.mark.parametrize("unit", ["%", "share"])
@pytest.mark.parametrize("y", [[99.0, 99.9], [100.0, 100.0], [0.0, 0.0], [3.0, 100.0], [0.1, 0.4]])
def test_the_axis_of_a_percentage_ends_at_100(unit, y):
    full = {"%": 100.0, "share": 1.0}[unit]
    curve = Series("curve", [0, 1], [value * full / 100 for value in y])
    frame = charts._frame([curve], None, charts._LIMITS[unit])
    assert 0 <= frame.low <= min(curve.y) <= max(curve.y) <= frame.high <= full
    assert frame.low < frame.high
    _, beside, numbers = axis_numbers(curve.y, unit)
    assert len(set(beside)) == len(beside) and max(numbers) <= full


def test_numbers_are_short():
    shown = [charts.show(value) for value in (0, 44.8123, 1234.5, 3.0, 0.00034567, 1.2e-7, -2.5)]
    assert shown == ["0", "44.8", "1,234", "3", "0.000346", "1.2e-07", "-2.5"]
