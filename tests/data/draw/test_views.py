"""Views are drawn as in the original (torchvision on Pillow), each kind by its own settings."""

import dataclasses

import numpy as np
import pytest
from dice import Dice

from ibot_jax.config import get_config
from ibot_jax.data.draw import views
from ibot_jax.kernels.color_table import JITTER


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


def test_colours_follow_from_their_draws(settings):
    """Jitter or not, its order, a factor for each; grey, blur and how much, solarised."""
    (_, view), _ = settings
    some = dataclasses.replace(view, blur=0.5, brightness=2.0, saturation=0.0)
    order = [JITTER.index(name) for name in ("hue", "saturation", "brightness", "contrast")]
    dice = Dice(0.79, order, 0.25, 0.5, 0.25, 0.19, 0.49, 0.5, 0.19)
    color = views.draw_color(dice, some, flip=True)
    assert color.flip and color.gray and color.solarize and dice.left == []
    names, factors = zip(*color.jitter, strict=True)
    assert names == ("hue", "brightness", "contrast")
    np.testing.assert_allclose(factors, [-0.05, 1.5, 0.8])  # brightness from 0 to 3
    np.testing.assert_allclose(color.blur_radius, 1.05)

    # A probability is a share of draws below it.
    nothing = views.draw_color(Dice(0.8, 0.2, 0.5, 0.2), some, flip=False)
    assert nothing == views.Color(False, (), False, 0.0, False)


def test_all_views_of_a_kind_are_made_alike():
    config = get_config().data
    config.update(global_views=4, local_views=3, blur=(0.1, 0.2, 0.3), solarize=(0.4, 0.5, 0.6))
    whole, local = views.view_settings(config)
    assert [view.blur for view in whole + local] == [0.1] + [0.2] * 3 + [0.3] * 3
    assert [view.solarize for view in whole + local] == [0.4] + [0.5] * 3 + [0.6] * 3
    config.update(global_views=1, local_views=0)
    whole, local = views.view_settings(config)
    assert len(whole) == 1 and local == []


def test_a_view_is_cut_flipped_and_coloured_in_its_turn(settings):
    plain = dict(jitter=0.0, gray=0.0, blur=0.0, solarize=0.0, scale=(0.25, 0.25), aspect=(1, 1))
    both = [dataclasses.replace(settings[0][0], flip=flip, **plain) for flip in (0.3, 0.7)]
    crop_dice, color_dice = Dice(0, 0, 1, 2, 0.3, 0, 0, 3, 4, 0.3), Dice(*[0.0] * 8)
    boxes, colors = views.draw_views(10, 20, both, crop_dice, color_dice)
    assert [box[:2] for box in boxes] == [(1, 2), (3, 4)]
    assert crop_dice.limits == [4, 14] * 2
    assert [color.flip for color in colors] == [False, True]
    assert crop_dice.left == color_dice.left == []
