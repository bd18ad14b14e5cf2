"""The accelerator changes the colours of all views at once as Pillow does those of one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.kernels import colors as kernel_colors
from ibot_jax.kernels.choice import XLA, Kernels
from ibot_jax.kernels.color_table import JITTER, Color
from ibot_jax.kernels.devices import Device

MAX_BLUR_RADIUS = 2.0
PLAIN = Color(flip=False, jitter=(), gray=False, blur_radius=0.0, solarize=False)
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
OPERATIONS = [
    *(f"{name}/{factor}" for name in ("brightness", "contrast") for factor in (0.6, 0.85, 1.4)),
    *(f"saturation/{factor}" for factor in (0.8, 1.2)),
    *(f"hue/{factor}" for factor in ("-0.1", "-0.03", "0.07", "0.1")),
    *(f"blur/{radius}" for radius in ("0.1", "0.5", "1.0", "1.7", "2.0")),
    "grayscale",
    "solarize/128",
    "hflip",
]

KERNEL = Kernels(("tpu.colors",), Device("tpu", partitioned=False))
apply_colors = jax.jit(kernel_colors.apply_colors, static_argnames="max_blur_radius")
by_kernel = jax.jit(
    functools.partial(kernel_colors.apply_colors, kernels=KERNEL), static_argnames="max_blur_radius"
)


def on_device(views, colors, max_blur_radius=MAX_BLUR_RADIUS, apply=apply_colors):
    rows = np.array([color.row() for color in colors], np.float32)
    return np.asarray(apply(np.stack(views), rows, max_blur_radius=max_blur_radius))


def on_host(view, color):
    bands = view.shape[-1]
    image = Image.fromarray(view[..., 0] if bands == 1 else view)
    return np.asarray(apply_color(image, color)).reshape(view.shape)


def draw_color(rng):
    """Draws any number of operations in any order, with factors as wide as they are defined."""
    ranges = {name: (-0.5, 0.5) if name == "hue" else (0, 2) for name in JITTER}
    names = rng.permutation(JITTER)[: rng.integers(len(JITTER) + 1)]
    return Color(
        flip=bool(rng.integers(2)),
        jitter=tuple((str(name), rng.uniform(*ranges[name])) for name in names),
        gray=bool(rng.random() < 0.2),
        blur_radius=rng.uniform(0.1, MAX_BLUR_RADIUS) if rng.integers(2) else 0.0,
        solarize=bool(rng.random() < 0.3),
    )


def draw_views(rng, count, bands):
    """Half noise, half smooth and pale: the former has all colours, the latter nearby ones."""
    noise = rng.integers(0, 256, (count // 2, 24, 20, bands))
    ramp = np.linspace(0, 60, 20) + np.linspace(0, 60, 24)[:, None]
    pale = rng.integers(0, 100, (count - count // 2, 1, 1, bands)) + ramp[..., None]
    return np.concatenate([noise, pale]).astype(np.uint8)


@pytest.mark.parametrize("key", OPERATIONS)
def test_operations_equal_the_recorded_bytes(reference, key):
    recorded = np.load(reference("view_ops.npz"))
    name, _, value = key.partition("/")
    change = {
        "hflip": lambda: {"flip": True},
        "blur": lambda: {"blur_radius": float(value)},
        "grayscale": lambda: {"gray": True},
        "solarize": lambda: {"solarize": True},
    }.get(name, lambda: {"jitter": ((name, float(value)),)})()
    (found,) = on_device([recorded["image"]], [dataclasses.replace(PLAIN, **change)])
    np.testing.assert_array_equal(found, recorded[key])


@pytest.mark.parametrize("mode", MODES)
def test_whole_draws_equal_pillow(mode):
    rng = np.random.default_rng(MODES[mode])
    views = draw_views(rng, 400, MODES[mode])
    colors = [draw_color(rng) for _ in views]
    expected = [on_host(view, color) for view, color in zip(views, colors, strict=True)]
    errors = np.abs(on_device(views, colors) - np.array(expected, int))
    blurred = np.array([color.blur_radius > 0 for color in colors])
    assert not errors[~blurred].any()
    # The weights of the blur are rounded after other operations than Pillow's.
    assert errors[blurred].max() <= 1 and errors[blurred].mean() < 1e-4


@pytest.mark.parametrize("kernels", [XLA, KERNEL])
def test_bands_change_as_greys_of_their_own(kernels):
    rng = np.random.default_rng(0)
    views = draw_views(rng, 40, 7)
    colors = [draw_color(rng) for _ in views]
    apply = functools.partial(kernel_colors.apply_colors, kernels=kernels, bands=True)
    found = on_device(views, colors, apply=apply)
    for band in range(7):
        alone = on_device([view[..., band : band + 1] for view in views], colors)
        np.testing.assert_array_equal(found[..., band : band + 1], alone)


@pytest.mark.parametrize("mode", MODES)
def test_the_kernel_for_tpus_gives_the_same_bytes(mode):
    """It is interpreted here."""
    rng = np.random.default_rng(MODES[mode])
    views = draw_views(rng, 60, MODES[mode])
    colors = [draw_color(rng) for _ in views]
    expected = on_device(views, colors)
    np.testing.assert_array_equal(on_device(views, colors, apply=by_kernel), expected)


@pytest.mark.slow
def test_the_kernel_takes_views_of_more_rows_and_columns_than_it_works_on_at_once():
    views = np.random.default_rng(0).integers(0, 256, (2, 136, 140, 3)).astype(np.uint8)
    jitter = (("contrast", 1.3), ("hue", 0.05), ("saturation", 1.1), ("brightness", 0.8))
    color = Color(flip=True, jitter=jitter, gray=False, blur_radius=1.3, solarize=True)
    plain = dataclasses.replace(PLAIN, blur_radius=0.4, gray=True)
    found, expected = (on_device(views, [color, plain], apply=f) for f in (by_kernel, apply_colors))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(20, 20), (392, 8), (8, 400)])
def test_views_that_the_kernel_does_not_take_are_changed_all_the_same(shape):
    views = np.random.default_rng(0).integers(0, 256, (1, *shape, 3)).astype(np.uint8)
    color = dataclasses.replace(PLAIN, jitter=(("saturation", 1.5),), flip=True)
    found = on_device(views, [color], apply=by_kernel)
    np.testing.assert_array_equal(found[0], on_host(views[0], color))


def test_colors_of_all_kinds_turn_as_in_pillow():
    """Pillow cuts the hue's fraction off, so roundings decide where there should be none."""
    levels = np.arange(0, 256, 5)
    view = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(52, -1, 3)
    view = view.astype(np.uint8)
    color = dataclasses.replace(PLAIN, jitter=(("hue", 0.07),))
    np.testing.assert_array_equal(on_device([view], [color])[0], on_host(view, color))


def test_optimised_programs_round_products_before_sums():
    """With these factors many products are whole but for their rounding."""
    jitters = [(name, factor) for name in ("contrast", "saturation") for factor in (0.6, 0.8, 1.4)]
    colors = [dataclasses.replace(PLAIN, jitter=(jitter,)) for jitter in jitters]
    views = draw_views(np.random.default_rng(0), len(colors), 3)
    rows = np.array([color.row() for color in colors], np.float32)
    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    lowered = apply_colors.lower(views, rows, max_blur_radius=0.0)
    found = lowered.compile(compiler_options=options)(views, rows)
    expected = [on_host(view, color) for view, color in zip(views, colors, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_the_jitter_keeps_its_order():
    (view,) = draw_views(np.random.default_rng(0), 1, 3)
    jitter = (("brightness", 1.6), ("contrast", 0.5), ("hue", 0.2), ("saturation", 1.8))
    orders = [jitter, jitter[::-1], jitter[2:] + jitter[:2]]
    colors = [dataclasses.replace(PLAIN, jitter=order) for order in orders]
    found = on_device([view] * 3, colors)
    for one, color in zip(found, colors, strict=True):
        np.testing.assert_array_equal(one, on_host(view, color))
    assert len({one.tobytes() for one in found}) == 3


def test_alpha_is_flipped_and_else_untouched():
    rng = np.random.default_rng(0)
    for bands in (2, 4):
        views = draw_views(rng, 20, bands)
        colors = [dataclasses.replace(draw_color(rng), flip=bool(i % 2)) for i in range(20)]
        alpha = on_device(views, colors)[..., -1]
        np.testing.assert_array_equal(alpha[::2], views[::2, ..., -1])
        np.testing.assert_array_equal(alpha[1::2], views[1::2, :, ::-1, -1])


def test_nothing_drawn_changes_nothing():
    views = draw_views(np.random.default_rng(0), 4, 3)
    np.testing.assert_array_equal(on_device(views, [PLAIN] * 4), views)
    np.testing.assert_array_equal(on_device(views, [PLAIN] * 4, max_blur_radius=0.0), views)


@pytest.mark.parametrize("radius", [0.5, 3.0, 6.0])
def test_the_blur_reaches_as_far_as_the_largest_radius(radius):
    (view,) = draw_views(np.random.default_rng(0), 1, 3)
    color = dataclasses.replace(PLAIN, blur_radius=radius)
    found = on_device([view], [color], max_blur_radius=radius)
    np.testing.assert_array_equal(found[0], on_host(view, color))


def test_batches_of_views_are_split_among_devices_without_communication():
    rng = np.random.default_rng(0)
    views = draw_views(rng, 48, 3)
    rows = np.array([draw_color(rng).row() for _ in views], np.float32)
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put(views.reshape(16, 3, *views.shape[1:]), sharding)
    colors = jax.device_put(rows.reshape(16, 3, -1), sharding)
    program = apply_colors.lower(batch, colors, max_blur_radius=MAX_BLUR_RADIUS).compile()
    text = program.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    found = program(batch, colors)
    assert found.sharding.is_equivalent_to(sharding, found.ndim)
    expected = apply_colors(views, rows, max_blur_radius=MAX_BLUR_RADIUS)
    assert jnp.array_equal(found.reshape(views.shape), expected)
