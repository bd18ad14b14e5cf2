"""Views are drawn as in the original (torchvision on Pillow), each kind by its own settings."""

import dataclasses

import numpy as np
import pytest

from ibot_jax.config import get_config
from ibot_jax.data.draw import views


@pytest.fixture
def settings():
    return views.view_settings(get_config().data)


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
    draws = [views.draw_color(rng, second, flip=False) for _ in range(10_000)]
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
    orders = [
        tuple(dict(views.draw_color(rng, settings[0][0], flip=False).jitter)) for _ in range(6000)
    ]
    counts = {order: orders.count(order) for order in set(orders) if order}
    assert len(counts) == 24
    assert min(counts.values()) > 140 and max(counts.values()) < 260  # 200 expected


def test_a_jitter_of_zero_is_left_out(settings):
    view = dataclasses.replace(settings[0][0], jitter=1.0, hue=0.0)
    names = dict(views.draw_color(np.random.default_rng(0), view, flip=False).jitter)
    assert set(names) == {"brightness", "contrast", "saturation"}


def test_strong_jitter_does_not_reach_below_zero(settings):
    view = dataclasses.replace(settings[0][0], jitter=1.0, brightness=2.0)
    rng = np.random.default_rng(0)
    factors = [
        dict(views.draw_color(rng, view, flip=False).jitter)["brightness"] for _ in range(500)
    ]
    assert min(factors) >= 0 and max(factors) > 2.8


def test_crops_and_flips_do_not_depend_on_colors(settings):
    def draw(view):
        rngs = np.random.default_rng(1), np.random.default_rng(2)
        boxes, colors = views.draw_views(300, 400, [view] * 5, *rngs)
        return boxes, [color.flip for color in colors]

    nothing = dict(jitter=0.0, gray=0.0, blur=0.0, solarize=0.0)
    assert draw(settings[0][0]) == draw(dataclasses.replace(settings[0][0], **nothing))


def test_views_are_flipped_as_often_as_configured(settings):
    view = dataclasses.replace(settings[0][0], flip=0.3)
    rng = np.random.default_rng(0)
    _, colors = views.draw_views(30, 40, [view] * 5000, rng, rng)
    assert abs(np.mean([color.flip for color in colors]) - 0.3) < 0.03
