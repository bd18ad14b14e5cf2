"""Views of labelled images: labels stay with their pixels, and no class fills a crop."""

import colorsys

import numpy as np
import pytest
from scipy.ndimage import zoom

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.evaluate.benchmarks import segmentation_views as views
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED
from ibot_jax.evaluate.benchmarks.segmentation_views import Crops
from ibot_jax.parallel.shares import all_rows

DECODING = Decoding()
FILL = np.array([124, 116, 104], np.uint8)


def make_crops(**overrides):
    values = dict(size=40, ratios=(1.0, 1.0), crop=24, fill=FILL, decoding=DECODING)
    return Crops(**values | {"rows": all_rows(1)} | overrides)


@pytest.fixture
def plain(monkeypatch):
    """Leaves colours as they are."""
    monkeypatch.setattr(views, "distorted", lambda pixels, rng, decoding: pixels)


@pytest.mark.parametrize("factor", [3, 0.5])
def test_resizing_takes_the_nearest_four_pixels_only(factor):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    size = int(12 * factor), int(16 * factor)
    found = views.resized(pixels, size, DECODING)
    want = zoom(pixels.astype(float), (factor, factor, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, want, atol=1)


def test_the_shorter_side_is_what_is_asked_for():
    assert views.shorter_side((100, 150), 512) == (512, 768)
    assert views.shorter_side((683, 512), 256) == (342, 256)


def test_labels_stay_with_their_pixels(plain):
    """Of an image whose grey is its label, but for pixels between two labels."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 8, (5, 6)), np.ones((8, 8))).astype(np.uint8)
    pixels = np.repeat(30 * labels[..., None], 3, axis=2)
    crops = make_crops(size=60, crop=32)
    for _ in range(8):
        image, classes = crops.draw(pixels, labels, rng)
        assert image.shape == (32, 32, 3) and classes.shape == (32, 32)
        assert np.mean(image[..., 0] == 30 * classes) > 0.7
        assert np.median(np.abs(image[..., 0].astype(int) - 30 * classes)) == 0


def test_half_of_the_crops_are_mirrored(plain):
    ramp = np.tile(np.arange(40, dtype=np.uint8), (40, 1))
    pixels = np.repeat(ramp[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    rises = [
        np.diff(make_crops().draw(pixels, ramp, rng)[1][0].astype(int)).sum() > 0
        for _ in range(200)
    ]
    assert 70 < sum(rises) < 130


def test_what_an_image_lacks_is_filled_right_and_below(plain):
    pixels, labels = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.uint8)
    crops = make_crops(size=10, crop=24)  # which makes it 10 x 15
    image, classes = crops.draw(pixels, labels, np.random.default_rng(0))
    assert (classes[:10, :15] == 1).all() and (image[:10, :15] == 0).all()
    outside = np.ones((24, 24), bool)
    outside[:10, :15] = False
    assert (classes[outside] == IGNORED).all() and (image[outside] == FILL).all()


def test_sizes_are_drawn_within_their_ratios(plain):
    """The share of a crop that an image fills tells how large it was."""
    pixels, labels = np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), np.uint8)
    crops, rng = make_crops(size=20, ratios=(0.5, 2.0), crop=40), np.random.default_rng(0)
    sides = [int(np.sqrt((crops.draw(pixels, labels, rng)[1] == 1).sum())) for _ in range(200)]
    assert 10 <= min(sides) < 12 and 38 < max(sides) <= 40
    assert 23 < np.mean(sides) < 27


def test_a_crop_in_which_one_class_has_too_much_is_drawn_again(plain):
    """A tenth of the image differs, at its left; what is void does not count as a class."""
    labels = np.zeros((40, 400), np.uint8)
    labels[:, :40] = np.kron([[1, 2], [3, 4]], np.ones((20, 20)))
    labels[:, 200:] = IGNORED
    pixels = np.zeros((40, 400, 3), np.uint8)
    rng = np.random.default_rng(0)
    found = [make_crops().draw(pixels, labels, rng)[1] for _ in range(100)]
    diverse = 0
    for classes in found:
        counts = np.bincount(classes.ravel(), minlength=256)[:IGNORED]
        diverse += counts.max() < 0.75 * counts.sum()
    assert diverse > 40  # of single draws some 8 %, of eleven 1 - 0.92^10


def test_colours_are_distorted_within_their_limits():
    """Saturation and hue of a colour, and how light a grey is, which these leave."""
    rng = np.random.default_rng(0)
    pixels = np.array([[[180, 90, 60], [100, 100, 100]]], np.uint8)
    drawn = [views.distorted(pixels, rng, DECODING)[0] for _ in range(400)]
    greys = np.array([grey for _, grey in drawn], int)
    assert np.ptp(greys, axis=1).max() == 0
    assert 34 <= greys.min() < 45 and 150 < greys.max() <= 198
    same = np.mean(greys[:, 0] == 100)
    assert 0.18 < same < 0.32  # neither brightness nor contrast
    hues = [colorsys.rgb_to_hsv(*(color / 255))[0] for color, _ in drawn]
    start = colorsys.rgb_to_hsv(180, 90, 60)[0]
    turned = (np.array(hues) - start + 0.5) % 1 - 0.5
    assert 0.08 < np.abs(turned).max() < 0.13  # a tenth of the circle, and what clipping adds
    assert 0.3 < np.mean(np.abs(turned) < 0.01) < 0.7


def test_bands_keep_their_colours_apart():
    pixels = np.full((1, 1, 5), 100, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = views.distorted(pixels, rng, Decoding(channels=5, bands=True))
        assert np.ptp(found) == 0
