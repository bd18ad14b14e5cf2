"""RandAugment's operations against NumPy, and what is drawn of them."""

import collections

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.draw.rand_augment import OPERATIONS, RandAugment

GRAY = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(10, 240, (24, 32, 3), dtype=np.uint8)


def apply(name, pixels, amount, fill=(1, 2, 3)):
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), amount, fill))


def test_levels_change_as_the_formulas_say(pixels):
    for amount in (0.9, -0.9):  # without a direction, only the size counts
        np.testing.assert_array_equal(apply("invert", pixels, amount), 255 - pixels)
        # 4 - int(3.6) = 1 bit is kept, and levels from 256 - int(230.4) = 26 on are inverted.
        np.testing.assert_array_equal(apply("posterize", pixels, amount), pixels & 0b10000000)
        expected = np.where(pixels >= 26, 255 - pixels, pixels)
        np.testing.assert_array_equal(apply("solarize", pixels, amount), expected)
        expected = np.where(pixels < 128, np.minimum(pixels.astype(int) + 99, 255), pixels)
        np.testing.assert_array_equal(apply("solarize_add", pixels, amount), expected)
    np.testing.assert_array_equal(apply("posterize", pixels, 0.1), pixels & 0b11110000)
    np.testing.assert_array_equal(apply("posterize", pixels, 1.0), pixels & 0b10000000)
    np.testing.assert_array_equal(apply("solarize", pixels, 1.0), 255 - pixels)


def test_contrast_is_stretched_to_the_whole_range_channel_by_channel(pixels):
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    expected = (pixels - low.astype(float)) * 255 / (high.astype(float) - low)
    np.testing.assert_allclose(apply("auto_contrast", pixels, 0.5), expected, atol=1)


def test_equalized_levels_are_uniform():
    """A ramp that dwells in the dark: afterwards each quarter of the range has a quarter of it."""
    ramp = (255 * np.linspace(0, 1, 4096) ** 3).astype(np.uint8).reshape(64, 64, 1)
    found = apply("equalize", np.repeat(ramp, 3, axis=2), 0.5)
    share = np.histogram(found, bins=4, range=(0, 256))[0] / found.size
    np.testing.assert_allclose(share[1:], 0.25, atol=0.03)


@pytest.mark.parametrize(("amount", "factor"), [(0.9, 1.81), (-0.5, 0.55), (-1.0, 0.1)])
def test_enhancement_blends_with_the_image_at_factor_zero(pixels, amount, factor):
    smooth = pixels.astype(float)
    gray = smooth @ GRAY
    zeros = {
        "brightness": np.zeros_like(smooth),
        "contrast": np.full_like(smooth, gray.mean()),
        "color": np.repeat(gray[..., None], 3, axis=2),
    }
    for name, base in zeros.items():
        expected = np.clip(base + factor * (smooth - base), 0, 255)
        np.testing.assert_allclose(apply(name, pixels, amount), expected, atol=2, err_msg=name)
    flat = np.full_like(pixels, 77)
    np.testing.assert_array_equal(apply("sharpness", flat, amount), flat)
    spread = apply("sharpness", pixels, amount).astype(float).std()
    assert (spread > smooth.std()) == (factor > 1)


def test_translations_move_by_whole_pixels_and_fill(pixels):
    """0.45 x 1/3.6 = 1/8 of the width, 4 of 32 pixels, and of the height, 3 of 24."""
    moved = apply("translate_x", pixels, 1 / 3.6)
    np.testing.assert_allclose(moved[:, :28].astype(int), pixels[:, 4:], atol=1)
    assert (moved[:, 29:] == (1, 2, 3)).all()
    moved = apply("translate_y", pixels, -1 / 3.6)
    np.testing.assert_allclose(moved[3:].astype(int), pixels[:-3], atol=1)
    assert (moved[:2] == (1, 2, 3)).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_shears_move_each_line_in_proportion_to_its_place(axis):
    """Line n moves by n x 0.3 x 5/6 = n / 4 pixels: every fourth one by a whole number."""
    line = np.zeros(64)
    line[20:40] = 200
    pixels = np.repeat(np.tile(line, (48, 1))[..., None], 3, axis=2).astype(np.uint8)
    if axis == 0:
        pixels = pixels.transpose(1, 0, 2)
    moved = apply("shear_y" if axis == 0 else "shear_x", np.ascontiguousarray(pixels), 5 / 6)
    lines = moved[..., 0] if axis == 1 else moved[..., 0].T
    for n in range(4, 40, 4):  # half a pixel of the line is n / 4 + 1 / 8
        edges = np.flatnonzero(lines[n] > 100)
        assert abs(edges[0] - (20 - n / 4)) <= 1 and abs(edges[-1] - (39 - n / 4)) <= 1


def test_a_rotation_turns_counterclockwise_by_up_to_30_degrees():
    pixels = np.zeros((65, 65, 3), np.uint8)
    pixels[32, 40:60] = 255  # a ray to the right
    turned = apply("rotate", pixels, 1.0, fill=(0, 0, 0))[..., 0].astype(float)
    rows, columns = np.mgrid[:65, :65] - 32
    angle = np.degrees(np.arctan2((-rows * turned).sum(), (columns * turned).sum()))
    assert angle == pytest.approx(30, abs=1)


def test_two_operations_of_the_given_strength_are_drawn_and_half_of_them_applied(monkeypatch):
    seen = collections.defaultdict(list)

    def spy(name):
        def operation(image, amount, fill):
            assert fill == (1, 2, 3)
            seen[name].append(amount)
            return image

        return operation

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, spy(name))
    augment = RandAugment(ops=2, magnitude=9.0, magnitude_std=0.5, fill=(1, 2, 3))
    image = Image.new("RGB", (4, 4))
    for seed in range(3000):
        augment(image, np.random.default_rng(seed))
    amounts = np.concatenate(list(seen.values()))
    assert len(amounts) == pytest.approx(3000, rel=0.05)  # 2 x 0.5 for each image
    assert len(seen) == 15 and min(map(len, seen.values())) > 140  # of 200 expected
    assert np.mean(amounts > 0) == pytest.approx(0.5, abs=0.05)
    strengths = np.abs(amounts)
    assert strengths.max() == 1.0  # a magnitude above 10 is 10
    assert np.mean(strengths) == pytest.approx(0.9, abs=0.01)
    assert np.std(strengths) == pytest.approx(0.05, abs=0.01)


def test_the_same_numbers_give_the_same_image_and_others_another(pixels):
    augment = RandAugment(ops=2, magnitude=9.0, magnitude_std=0.5, fill=(1, 2, 3))
    results = [
        np.asarray(augment(Image.fromarray(pixels), np.random.default_rng(seed)))
        for seed in (1, 1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert any(not np.array_equal(results[0], other) for other in results[2:])


@pytest.mark.parametrize("name", OPERATIONS)
def test_grey_images_stay_grey(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8))
    changed = OPERATIONS[name](image, 0.9, 7)
    assert changed.mode == "L" and changed.size == (7, 9)
