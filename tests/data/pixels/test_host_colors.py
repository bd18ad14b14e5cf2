"""Colours on the host are, byte by byte, those of torchvision on Pillow images."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.kernels.color_table import Color

PLAIN = Color(flip=False, jitter=(), gray=False, blur_radius=0.0, solarize=False)
OPERATIONS = [
    *(f"{name}/{factor}" for name in ("brightness", "contrast") for factor in (0.6, 0.85, 1.4)),
    *(f"saturation/{factor}" for factor in (0.8, 1.2)),
    *(f"hue/{factor}" for factor in ("-0.1", "-0.03", "0.07", "0.1")),
    *(f"blur/{radius}" for radius in ("0.1", "0.5", "1.0", "1.7", "2.0")),
    "grayscale",
    "solarize/128",
]


@pytest.fixture
def image(view_ops):
    return Image.fromarray(view_ops["image"])


@pytest.mark.parametrize("key", OPERATIONS)
def test_color_operations_equal_the_recorded_bytes(view_ops, image, key):
    name, _, value = key.partition("/")
    color = {
        "blur": lambda: dataclasses.replace(PLAIN, blur_radius=float(value)),
        "grayscale": lambda: dataclasses.replace(PLAIN, gray=True),
        "solarize": lambda: dataclasses.replace(PLAIN, solarize=True),
    }.get(name, lambda: dataclasses.replace(PLAIN, jitter=((name, float(value)),)))()
    np.testing.assert_array_equal(np.asarray(apply_color(image, color)), view_ops[key])


def test_alpha_is_kept_and_grey_stays_grey(image):
    jitter = (("brightness", 0.6), ("hue", 0.1), ("contrast", 1.4))
    color = Color(flip=False, jitter=jitter, gray=False, blur_radius=1.0, solarize=True)
    alpha = image.getchannel("R")
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    found = apply_color(with_alpha, color)
    np.testing.assert_array_equal(np.asarray(found)[..., 3], np.asarray(alpha))
    expected = np.asarray(apply_color(image, color))
    np.testing.assert_array_equal(np.asarray(found)[..., :3], expected)
    assert apply_color(image.convert("L"), color).mode == "L"


def test_flip_equals_the_recorded_bytes(view_ops, image):
    flipped = apply_color(image, dataclasses.replace(PLAIN, flip=True))
    np.testing.assert_array_equal(np.asarray(flipped), view_ops["hflip"])
