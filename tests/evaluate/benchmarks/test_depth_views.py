"""Views to train depth on: what becomes of an image becomes of its depths."""

import numpy as np
import pytest
from scipy import ndimage

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate.benchmarks.depth.views import draw, recolored, turned

SIZE = (60, 80)
CROP = (44, 58)
WIDE = (0.75, 1.25)  # brightness


def ramp():
    """Returns a smooth image whose grey tells the depth: metres = grey / 25."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    grey = (50 + rows + columns).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), grey.astype(np.float32) / 25


def test_depths_turn_with_their_image_and_there_are_none_outside():
    pixels, metres = ramp()
    image, depths = turned(pixels, metres, 2.5, Decoding())
    assert image.dtype == np.uint8 and depths.dtype == np.float32
    known = depths > 0
    assert np.abs(25 * depths - image[..., 0])[known].max() <= 2  # one bilinear, one nearest
    assert (image[~known] <= image[known].min()).mean() > 0.9 and not known[0, -1]
    inner = (slice(8, -8), slice(8, -8))
    want = ndimage.rotate(metres, 2.5, reshape=False, order=0)
    assert (depths[inner] == want[inner]).mean() > 0.99  # a tie may go the other way
    back = turned(image, depths, -2.5, Decoding())[1]
    assert np.abs(back - metres)[inner].max() <= 2 / 25


def test_positive_degrees_turn_counter_clockwise():
    pixels, metres = np.zeros((41, 41, 3), np.uint8), np.zeros((41, 41), np.float32)
    metres[20, 40] = 1  # right of the middle
    (row,), (column,) = np.nonzero(turned(pixels, metres, 90, Decoding())[1])
    assert (row, column) == (0, 20)


def test_colours_are_the_toolboxs_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    factors = 1.2 * np.array([0.9, 1.0, 1.1])
    want = np.clip(pixels.astype(np.float64) ** 1.1 * factors, 0, 255)
    np.testing.assert_allclose(recolored(pixels, 1.1, factors), want, atol=0.5)
    np.testing.assert_array_equal(recolored(pixels, 1.0, np.ones(3)), pixels)


def find_place(crop, whole):
    """Returns where a crop lies in a map, (top, left), and whether it is mirrored; else None."""
    height, width = crop.shape
    for top, left in np.ndindex(*np.subtract(whole.shape, crop.shape) + 1):
        part = whole[top : top + height, left : left + width]
        for mirrored, seen in enumerate((part, part[:, ::-1])):
            if np.array_equal(seen, crop):
                return top, left, bool(mirrored)
    return None


@pytest.fixture(scope="module")
def drawn():
    """Returns many crops of one image of noise, which no two places of it show."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(60, 120, (48, 64, 3), dtype=np.uint8)
    metres = pixels[..., 0].astype(np.float32) + rng.random((48, 64), np.float32)
    crops = [
        draw(pixels, metres, CROP, WIDE, Decoding(), np.random.default_rng(seed))
        for seed in range(300)
    ]
    return pixels, metres, crops


def test_one_in_two_is_turned_mirrored_and_recoloured(drawn):
    pixels, metres, crops = drawn
    places = [find_place(depths, metres) for _, depths in crops]
    straight = [place for place in places if place]
    assert 0.55 < len(straight) / len(crops) < 0.85  # small turns change nothing
    assert 0.35 < np.mean([mirrored for *_, mirrored in straight]) < 0.65
    assert {place[:2] for place in straight} == set(np.ndindex(5, 7))
    same = 0
    for (image, _), place in zip(crops, places, strict=True):
        if place:
            top, left, mirrored = place
            part = pixels[top : top + CROP[0], left : left + CROP[1]]
            same += np.array_equal(image, part[:, ::-1] if mirrored else part)
    assert 0.2 < same / len(straight) < 0.65
    brightness = [image.mean() / 90 for image, _ in crops]
    assert min(brightness) < 0.6 and max(brightness) > 1.5  # 90^0.9 / 90 and 90^1.1 / 90, and more


def test_views_are_a_function_of_the_seed(drawn):
    pixels, metres, crops = drawn
    again = draw(pixels, metres, CROP, WIDE, Decoding(), np.random.default_rng(7))
    for one, other in zip(crops[7], again, strict=True):
        np.testing.assert_array_equal(one, other)
