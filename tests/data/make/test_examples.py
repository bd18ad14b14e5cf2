"""An example is the same whoever changes its colours, and whatever the scale it is decoded at."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny import example_settings

from ibot_jax.config import get_config
from ibot_jax.data.make.examples import MakeExample
from ibot_jax.data.pixels import images
from ibot_jax.data.pixels.host_colors import apply_color
from ibot_jax.kernels.color_table import COLUMNS, JITTER, Color


@pytest.fixture
def config():
    config = get_config()
    config.data.update(global_size=(64, 96), local_size=(32, 48), local_views=6)
    return config


def picture(height, width, kind="JPEG"):
    """Waves of some sixteen pixels, which photographs have and a box filter keeps."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 16), np.sin(columns / 11), np.sin((rows + columns) / 23)]
    file = io.BytesIO()
    pixels = np.dstack([128 + 100 * wave for wave in waves]).astype(np.uint8)
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


def make(config, encoded, index=3, masked=True, fetch=bytes):
    task = MakeExample(fetch, **example_settings(config))
    out = tuple(np.full_like(array, 1) for array in task.blank())  # as if used before
    task(out, encoded, 2, index, masked)
    return out


def color_of(row):
    """The inverse of `Color.row`."""
    values = dict(zip(COLUMNS, row.tolist(), strict=True))
    jitter = [(values[f"{name}_place"], name, values[name]) for name in JITTER]
    return Color(
        flip=bool(values["flip"]),
        jitter=tuple((name, factor) for place, name, factor in sorted(jitter) if place >= 0),
        gray=bool(values["gray"]),
        blur_radius=values["blur_radius"],
        solarize=bool(values["solarize"]),
    )


@pytest.mark.parametrize("augment", ["device", "host"])
@pytest.mark.parametrize("resize", ["simd", "pillow"])
@pytest.mark.parametrize(("channels", "bands"), [(7, False), (4, True), (2, True), (3, True)])
def test_each_band_is_made_as_a_grey_image_of_its_own(config, channels, bands, resize, augment):
    config.data.update(channels=channels, bands=bands, resize=resize, augment=augment)
    pixels = np.asarray(Image.open(io.BytesIO(picture(400, 500))))
    pixels = pixels[..., np.arange(channels) % 3] // np.arange(1, channels + 1).astype(np.uint8)
    views = make(config, np.ascontiguousarray(pixels), fetch=np.asarray)
    config.data.update(channels=1, bands=False)
    for band in range(channels):
        alone = make(config, np.ascontiguousarray(pixels[..., band]), fetch=np.asarray)
        for found, expected in zip(views[:2], alone, strict=False):
            np.testing.assert_array_equal(found[..., band : band + 1], expected)
        for found, expected in zip(views[2:], alone[2:], strict=True):  # masks and colours
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resize", ["simd", "pillow"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_host_and_device_get_the_same_numbers(config, resize, channels):
    config.data.update(resize=resize, channels=channels)
    encoded = picture(120, 160)
    for index in range(5):
        *views, masks, global_colors, local_colors = make(config, encoded, index)
        config.data.augment = "host"
        host = make(config, encoded, index)
        config.data.augment = "device"
        assert len(host) == 3
        np.testing.assert_array_equal(host[2], masks)
        for raw, rows, expected in zip(views, (global_colors, local_colors), host, strict=False):
            for view, row, final in zip(raw, rows, expected, strict=True):
                image = Image.fromarray(view[..., 0] if channels == 1 else view)
                found = np.asarray(apply_color(image, color_of(row))).reshape(view.shape)
                # The row's 32 bits round the factors, which moves single pixels by a level.
                np.testing.assert_allclose(found.astype(int), final, atol=1 if channels != 3 else 9)
                assert np.mean(found != final) < 0.01


def test_masks_are_cleared_where_there_are_none(config):
    assert not make(config, picture(50, 60), masked=False)[2].any()


@pytest.mark.parametrize("colors", [False, True])
@pytest.mark.parametrize("augment", ["device", "host"])
def test_the_gram_teacher_sees_the_same_crops_larger(config, augment, colors):
    """Turned as the global views, their colours changed only if that is asked for."""
    config.data.update(augment=augment, resize="pillow")
    task = MakeExample(bytes, **example_settings(config), gram_size=(128, 192), gram_colors=colors)
    assert task.keys[-1] == "gram_views"
    encoded, turned = picture(120, 160), set()
    for index in range(6):
        out = dict(zip(task.keys, task.blank(), strict=True))
        task(tuple(out.values()), encoded, 2, index, True)
        plain = make(config, encoded, index)
        config.data.augment = "device"
        *_, rows, _ = device = make(config, encoded, index)
        config.data.augment = augment
        np.testing.assert_array_equal(out["global_views"], plain[0])
        for view, row, raw, colored in zip(
            out["gram_views"], rows, device[0], plain[0], strict=True
        ):
            small = np.asarray(Image.fromarray(view).resize((96, 64), Image.Resampling.BOX))
            expected = colored if colors else raw
            if not colors and row[0]:
                expected = raw[:, ::-1]
            turned.add(bool(row[0]))
            blurred = colors and augment == "host"  # by as many pixels, of smaller ones
            assert np.abs(small.astype(int) - expected).mean() < (12 if blurred else 2)
    assert turned == {False, True}
    task(tuple(out.values()), encoded, 2, 0, True, anchored=False)
    assert not out["gram_views"].any() and out["global_views"].any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("height", "width", "resize", "expected"),
    [
        (120, 160, "simd", {1}),
        (500, 700, "simd", {1, 2}),
        (1200, 1800, "simd", {2, 4}),
        (1200, 1800, "pillow", {1}),
    ],
)
def test_only_large_images_are_decoded_smaller(
    config, monkeypatch, kind, height, width, resize, expected
):
    config.data.update(resize=resize, global_scale=(0.25, 1.0), local_scale=(0.25, 1.0))
    shrinks = []
    decode = images.EncodedImage.decode

    def spy(self, shrink, boxes):
        shrinks.append(shrink)
        return decode(self, shrink, boxes)

    monkeypatch.setattr(images.EncodedImage, "decode", spy)
    encoded = picture(height, width, kind)
    for index in range(6):
        make(config, encoded, index)
    assert (set(shrinks) <= expected and max(shrinks) > 1) or set(shrinks) == expected == {1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(900, 1203), (1805, 1601)])
def test_views_of_a_smaller_decode_show_the_same(config, kind, size):
    config.data.local_scale = (0.15, 0.3)
    encoded = picture(*size, kind)
    for index in range(3):
        small = make(config, encoded, index)
        config.data.resize = "pillow"
        whole = make(config, encoded, index)
        config.data.resize = "simd"
        for one, other in zip(small[:2], whole[:2], strict=True):
            assert np.abs(one.astype(int) - other).mean() < 1.5
        for one, other in zip(small[2:], whole[2:], strict=True):
            np.testing.assert_array_equal(one, other)
