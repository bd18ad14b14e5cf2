"""Resizing: Pillow's bytes are the original's, the vector instructions' are close to them."""

import sys

import numpy as np
import pytest

from ibot_jax.data.pixels.resize import Box, check_method, crop_and_resize
from ibot_jax.errors import UserError

CROPS = ["0,0,48,64,32", "5,9,30,40,32", "11,20,17,19,24", "3,4,12,10,24", "0,0,48,64,96"]
CHANNELS = {"L": (0,), "LA": (0, 1), "RGB": (0, 1, 2), "RGBA": (0, 1, 2, 1)}


def cut(pixels, key, method):
    top, left, height, width, size = map(int, key.split(","))
    return crop_and_resize(pixels, Box(top, left, height, width), (size, size), method)


@pytest.mark.parametrize("key", CROPS)
def test_pillow_gives_the_recorded_bytes(view_ops, key):
    found = cut(view_ops["image"], key, "pillow")
    np.testing.assert_array_equal(found, view_ops[f"resized_crop/{key}"])


@pytest.mark.parametrize("key", CROPS)
def test_simd_is_within_a_level_of_the_recorded_bytes(view_ops, key):
    recorded = view_ops[f"resized_crop/{key}"].astype(int)
    difference = np.abs(cut(view_ops["image"], key, "simd") - recorded)
    # More where the filter overshoots: Pillow cuts off at 0 and 255 after the rows, too.
    inside = (recorded > 0) & (recorded < 255)
    assert np.mean(difference[inside] <= 1) > 0.99
    assert difference.mean() < 0.5


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("key", CROPS)
def test_both_agree_in_every_number_of_channels(view_ops, mode, key):
    pixels = view_ops["image"][..., CHANNELS[mode]]
    pixels = pixels // 2 + 64  # no overshooting, and no alpha of nearly 0
    pixels = pixels[..., 0] if mode == "L" else pixels
    found, expected = (cut(pixels, key, method).astype(int) for method in ("simd", "pillow"))
    assert found.shape == expected.shape
    # Alpha, from a quarter on, is multiplied in before and divided out after, in whole levels.
    assert np.quantile(np.abs(found - expected), 0.97) <= (1 if mode in ("L", "RGB") else 4)


@pytest.mark.parametrize("method", ["simd", "pillow"])
def test_a_box_lies_between_the_pixels_of_a_shrunk_image(method):
    """A ramp of 2 levels a pixel; halved, each pixel is the mean of two."""
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None] * 2, 64, axis=0)
    halved = ramp.reshape(32, 2, 32, 2).mean((1, 3)).round().astype(np.uint8)
    box = Box(3, 5, 33, 45)
    whole = crop_and_resize(ramp, box, (11, 15), method).astype(int)
    found = crop_and_resize(halved, box, (11, 15), method, shrink=2)
    np.testing.assert_allclose(found[:, 1:-1], whole[:, 1:-1], atol=1)
    np.testing.assert_allclose(found, whole, atol=2)


def test_a_missing_package_is_a_mistake_of_the_user(monkeypatch):
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    check_method("pillow")
    with pytest.raises(UserError, match=r"data\.resize='simd' .*data\.resize='pillow'"):
        check_method("simd")
