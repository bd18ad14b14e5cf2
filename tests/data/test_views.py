"""Views are, byte by byte and draw by draw, those of the original (torchvision on Pillow)."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ibot_jax.config import get_config
from ibot_jax.data import views
from ibot_jax.data.views import Box, Color

PLAIN = Color(jitter=(), gray=False, blur_radius=0.0, solarize=False)
OPERATIONS = [
    *(f"{name}/{factor}" for name in ("brightness", "contrast") for factor in (0.6, 0.85, 1.4)),
    *(f"saturation/{factor}" for factor in (0.8, 1.2)),
    *(f"hue/{factor}" for factor in ("-0.1", "-0.03", "0.07", "0.1")),
    *(f"blur/{radius}" for radius in ("0.1", "0.5", "1.0", "1.7", "2.0")),
    "grayscale",
    "solarize/128",
]
CROPS = ["0,0,48,64,32", "5,9,30,40,32", "11,20,17,19,24", "3,4,12,10,24", "0,0,48,64,96"]


@pytest.fixture
def image(view_ops):
    return Image.fromarray(view_ops["image"])


@pytest.fixture
def settings():
    return views.view_settings(get_config().data)


def draw_crops(height, width, scale, draws=20_000):
    rng = np.random.default_rng(0)
    return np.array(
        [views.draw_crop(rng, height, width, scale, (3 / 4, 4 / 3)) for _ in range(draws)]
    )


@pytest.mark.parametrize("key", OPERATIONS)
def test_color_operations_equal_the_recorded_bytes(view_ops, image, key):
    name, _, value = key.partition("/")
    color = {
        "blur": lambda: dataclasses.replace(PLAIN, blur_radius=float(value)),
        "grayscale": lambda: dataclasses.replace(PLAIN, gray=True),
        "solarize": lambda: dataclasses.replace(PLAIN, solarize=True),
    }.get(name, lambda: dataclasses.replace(PLAIN, jitter=((name, float(value)),)))()
    np.testing.assert_array_equal(np.asarray(views.apply_color(image, color)), view_ops[key])


@pytest.mark.parametrize("key", CROPS)
def test_crops_equal_the_recorded_bytes(view_ops, image, key):
    top, left, height, width, size = map(int, key.split(","))
    crop = views.crop_and_resize(image, Box(top, left, height, width), (size, size))
    np.testing.assert_array_equal(np.asarray(crop), view_ops[f"resized_crop/{key}"])


def test_flip_equals_the_recorded_bytes(view_ops, image, settings):
    plain = dict(jitter=0, gray=0, blur=0, solarize=0, size=(48, 64), scale=(1, 1), aspect=(1, 2))
    rng = np.random.default_rng(0)
    for flip, expected in ((1.0, view_ops["hflip"]), (0.0, view_ops["image"])):
        view = dataclasses.replace(settings[0][0], **plain, flip=flip)
        # Ten tries rarely hit the whole image; the fallback is the whole image.
        whole = dataclasses.replace(view, scale=(4, 4))
        (found,) = views.make_views(image, [whole], rng, rng)
        np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("kind", ["global", "local"])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224)])
def test_crops_have_the_recorded_distribution(view_statistics, kind, height, width):
    scale = {"global": (0.25, 1.0), "local": (0.05, 0.25)}[kind]
    top, left, crop_height, crop_width = draw_crops(height, width, scale).T
    key = f"crop/{kind}/{height}x{width}"
    steps = np.linspace(0, 1, 21)
    area = np.quantile(crop_height * crop_width / (height * width), steps)
    aspect = np.quantile(np.log(crop_width / crop_height), steps)
    corner = [top.mean(), left.mean()]
    # About four standard errors of the difference of two samples of 20,000.
    np.testing.assert_allclose(area, view_statistics[f"{key}/area_quantiles"], atol=0.012)
    np.testing.assert_allclose(aspect, view_statistics[f"{key}/log_aspect_quantiles"], atol=0.011)
    np.testing.assert_allclose(corner, view_statistics[f"{key}/top_left_mean"], atol=3)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 100, Box(0, 43, 10, 13)),  # too wide: as wide as 4/3 allows, in the middle
        (100, 10, Box(43, 0, 13, 10)),  # too high
        (1, 1, Box(0, 0, 1, 1)),
    ],
)
def test_a_crop_that_never_fits_becomes_central(height, width, box):
    rng = np.random.default_rng(0)
    assert views.draw_crop(rng, height, width, (4.0, 4.0), (3 / 4, 4 / 3)) == box


def test_views_take_their_settings_from_their_kind(settings):
    (first, second), local = settings
    assert (first.blur, second.blur, local[0].blur) == (1.0, 0.1, 0.5)
    assert (first.solarize, second.solarize, local[0].solarize) == (0.0, 0.2, 0.0)
    assert (first.size, second.size, local[0].size) == ((224, 224), (224, 224), (96, 96))
    assert (second.scale, local[0].scale) == ((0.25, 1.0), (0.05, 0.25))
    assert len(local) == 10


def test_colors_are_drawn_with_the_configured_distributions(settings):
    (_, second), _ = settings
    rng = np.random.default_rng(0)
    draws = [views.draw_color(rng, second) for _ in range(10_000)]
    jitters = [dict(draw.jitter) for draw in draws if draw.jitter]
    assert abs(len(jitters) / 10_000 - 0.8) < 0.02
    assert abs(np.mean([draw.gray for draw in draws]) - 0.2) < 0.02
    assert abs(np.mean([draw.solarize for draw in draws]) - 0.2) < 0.02
    radii = np.array([draw.blur_radius for draw in draws if draw.blur_radius])
    assert abs(len(radii) / 10_000 - 0.1) < 0.015
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    samples = {name: np.array([jitter[name] for jitter in jitters]) for name in ranges}
    samples["blur_radius"], ranges["blur_radius"] = radii, (0.1, 2.0)
    for name, (low, high) in ranges.items():
        sample = samples[name]
        quartiles = np.quantile((sample - low) / (high - low), [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quartiles, [0, 0.25, 0.5, 0.75, 1], atol=0.06)
        assert min(sample) >= low and max(sample) <= high


def test_jitter_comes_in_every_order_equally_often(settings):
    rng = np.random.default_rng(0)
    orders = [tuple(dict(views.draw_color(rng, settings[0][0]).jitter)) for _ in range(6000)]
    counts = {order: orders.count(order) for order in set(orders) if order}
    assert len(counts) == 24
    assert min(counts.values()) > 140 and max(counts.values()) < 260  # 200 expected


def test_a_jitter_of_zero_is_left_out(settings):
    view = dataclasses.replace(settings[0][0], jitter=1.0, hue=0.0)
    names = dict(views.draw_color(np.random.default_rng(0), view).jitter)
    assert set(names) == {"brightness", "contrast", "saturation"}


def test_strong_jitter_does_not_reach_below_zero(settings):
    view = dataclasses.replace(settings[0][0], jitter=1.0, brightness=2.0)
    rng = np.random.default_rng(0)
    factors = [dict(views.draw_color(rng, view).jitter)["brightness"] for _ in range(500)]
    assert min(factors) >= 0 and max(factors) > 2.8


def test_crops_do_not_depend_on_colors(image, settings):
    def make(view):
        rngs = np.random.default_rng(1), np.random.default_rng(2)
        return [np.asarray(v) for v in views.make_views(image, [view] * 3, *rngs)]

    # Jitter without effect still draws its order, and solarisation can be applied afterwards.
    nothing = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gray=0.0, blur=0.0)
    view = dataclasses.replace(settings[1][0], **nothing, jitter=0.0)
    plain = make(view)
    colored = make(dataclasses.replace(view, jitter=1.0, solarize=1.0))
    for one, other in zip(plain, colored, strict=True):
        np.testing.assert_array_equal(np.where(one < 128, one, 255 - one), other)


def test_alpha_is_kept_and_grey_stays_grey(image):
    color = Color((("brightness", 0.6), ("hue", 0.1), ("contrast", 1.4)), False, 1.0, True)
    alpha = image.getchannel("R")
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    found = views.apply_color(with_alpha, color)
    np.testing.assert_array_equal(np.asarray(found)[..., 3], np.asarray(alpha))
    expected = np.asarray(views.apply_color(image, color))
    np.testing.assert_array_equal(np.asarray(found)[..., :3], expected)
    assert views.apply_color(image.convert("L"), color).mode == "L"


def test_the_central_view_is_the_middle_of_the_resized_image():
    columns = np.repeat(np.arange(100, dtype=np.uint8)[None], 50, axis=0)  # [50, 100]
    view = np.asarray(views.central_view(Image.fromarray(columns), 50, (40, 30)))
    np.testing.assert_array_equal(view, columns[5:45, 35:65])
    enlarged = views.central_view(Image.fromarray(columns), 100, (100, 200))
    assert enlarged.size == (200, 100)


def test_the_central_view_of_a_small_image_is_padded():
    white = Image.new("L", (4, 2), 255)
    view = np.asarray(views.central_view(white, 2, (4, 4)))
    np.testing.assert_array_equal(view[:, 0], [0, 255, 255, 0])
