"""Colours and panels: steps that look equal, hard edges of patches, panels in their places."""

import numpy as np
import pytest
from PIL import Image

from ibot_jax.screen import canvas


def lightness(colors):
    """CIE 1976 L* of sRGB colours [..., 3] uint8."""
    values = colors / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


def test_heat_rises_evenly_in_lightness():
    shades = lightness(canvas.heat(np.linspace(0, 1, 101)))
    assert shades[0] < 2 and shades[-1] > 95
    steps = np.diff(shades)
    assert steps.min() > 0 and steps.max() < 2  # 1 on average
    np.testing.assert_array_equal(canvas.heat(np.array([-1.0, 2.0])), canvas.heat(np.array([0, 1])))


@pytest.mark.parametrize("number", [1, 3, 6, 12, 16])
def test_colors_of_heads_differ(number):
    colors = canvas.distinct_colors(number).astype(int)
    assert colors.shape == (number, 3)
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=-1) + 999 * np.eye(number, dtype=int)
    assert apart.min() > 40


def test_patches_keep_hard_edges():
    """4 patches of 3 pixels, 2.5 times as large: each colour fills its place but for the edges."""
    values = np.array([[0, 255], [255, 0]], np.uint8)
    pixels = canvas.per_pixel(np.repeat(values[..., None], 3, axis=-1), (6, 6))
    large = np.asarray(canvas.panel(pixels, 15)).astype(int)
    assert large.shape == (15, 15, 3)
    for rows, columns, value in ((0, 0, 0), (0, 8, 255), (8, 0, 255), (8, 8, 0)):
        inside = large[rows + 1 : rows + 6, columns + 1 : columns + 6]
        assert np.abs(inside - value).max() <= 12  # ringing of the smoothed edge


def test_a_sheet_has_its_panels_in_rows_and_columns():
    """Widths of 32, a lower row, an empty place; 3 pixels between panels, 9 around."""
    red, green = (Image.new("RGB", (32, h), c) for h, c in ((32, "red"), (16, "green")))
    sheet = np.asarray(canvas.sheet([[red, green], [None, green]], cell=32, groups=2))
    assert sheet.shape == (9 + 32 + 3 + 16 + 9, 9 + 32 + 3 + 32 + 9, 3)
    assert (sheet[9:41, 9:41] == (255, 0, 0)).all()
    for top in (9 + 8, 9 + 32 + 3):  # a lower panel stands in the middle of its row
        assert (sheet[top : top + 16, 44:76] == (0, 128, 0)).all()
    assert (sheet[44:60, 9:41] == 255).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_images_of_any_channels_are_drawn_in_rgb(mode):
    color = {"L": 90, "LA": (90, 10), "RGB": (9, 90, 30), "RGBA": (9, 90, 30, 10)}[mode]
    pixels = np.asarray(Image.new(mode, (4, 6), color)).reshape(6, 4, -1)
    expected = (90, 90, 90) if mode.startswith("L") else (9, 90, 30)
    assert (canvas.to_rgb(pixels) == expected).all()
    assert np.asarray(canvas.photo(pixels, 12)).shape == (12, 8, 3)
    gray = canvas.to_gray(pixels)
    assert np.ptp(gray, axis=-1).max() == 0
