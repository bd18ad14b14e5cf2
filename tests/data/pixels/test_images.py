"""Decoding: JPEGs as Pillow decodes them, faults found, and smaller where that will do."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import UnreadableImage


def photograph(height, width):
    """Noise whose amplitude falls with its frequency, as in photographs; [H, W, 3] uint8."""
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[None, :, None]
    falling = np.maximum(np.hypot(rows, columns), 1 / max(height, width)) ** -1.5
    spectrum = np.fft.rfft2(rng.normal(size=(height, width, 3)), axes=(0, 1)) * falling
    waves = np.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    return np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    return np.dstack([rows, columns, rows * columns] * np.array(255.0)).astype(np.uint8)


def encode(pixels, mode="RGB", kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def by_pillow(encoded, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))


@pytest.mark.parametrize("size", [(64, 96), (97, 101), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"quality": 10},
        {"restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
)
def test_jpegs_decode_to_the_pixels_of_pillow(size, options):
    encoded = encode(photograph(*size), **options)
    image = EncodedImage(encoded, Decoding())
    assert (image.height, image.width) == size
    np.testing.assert_array_equal(image.decode(), by_pillow(encoded))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize(("channels", "wanted"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_every_kind_of_jpeg_becomes_every_number_of_channels(mode, channels, wanted):
    encoded = encode(photograph(40, 56), mode)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert(wanted))
    np.testing.assert_array_equal(EncodedImage(encoded, Decoding(channels)).decode(), expected)


def test_orientation_is_left_alone_as_in_the_original():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    encoded = encode(photograph(40, 56), exif=exif)
    assert EncodedImage(encoded, Decoding()).decode().shape == (40, 56, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_truncated_jpegs_are_judged_by_pillow_and_nothing_is_printed(
    progressive, kept, end, shrink, capfd
):
    encoded = encode(photograph(64, 96), progressive=progressive)
    encoded = encoded[: int(kept * len(encoded))] + end
    try:
        expected = by_pillow(encoded)
    except Exception as error:  # the rule; some that have an end Pillow completes
        with pytest.raises((type(error), UnreadableImage)):
            EncodedImage(encoded, Decoding()).decode(shrink)
    else:
        assert end
        if shrink == 1:
            np.testing.assert_array_equal(EncodedImage(encoded, Decoding()).decode(), expected)
    assert capfd.readouterr() == ("", "")


def test_a_missing_end_alone_is_a_fault():
    encoded = encode(photograph(64, 96))[:-2]
    with pytest.raises(OSError, match="truncated"):
        EncodedImage(encoded, Decoding()).decode()


def test_what_is_damaged_within_is_as_pillow_has_it():
    encoded = bytearray(encode(photograph(64, 96)))
    encoded[len(encoded) // 2 : len(encoded) // 2 + 4] = b"\xff\x00\xff\xd3"
    np.testing.assert_array_equal(
        EncodedImage(bytes(encoded), Decoding()).decode(), by_pillow(encoded)
    )


def test_pixels_need_no_decoding():
    pixels = photograph(10, 12)
    np.testing.assert_array_equal(EncodedImage(pixels, Decoding()).decode(), pixels)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(
        EncodedImage(grey, Decoding()).decode(), np.stack([grey] * 3, axis=-1)
    )


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize(
    ("encoded_as", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"mode": "L"}), ("PNG", {})]
)
@pytest.mark.parametrize(("make", "tolerance"), [(smooth, 1.0), (photograph, 3.0)])
def test_a_shrunk_image_is_the_mean_of_blocks(shrink, encoded_as, options, make, tolerance):
    pixels = make(160, 240)
    encoded = encode(pixels, kind=encoded_as, **options)
    whole = by_pillow(encoded).astype(float)
    blocks = whole.reshape(160 // shrink, shrink, 240 // shrink, shrink, 3).mean((1, 3))
    found = EncodedImage(encoded, Decoding()).decode(shrink)
    assert found.shape == blocks.shape
    assert np.abs(found - blocks).mean() < tolerance


def test_a_shrunk_side_is_rounded_up():
    for kind in ("JPEG", "PNG"):
        image = EncodedImage(encode(photograph(97, 101), kind=kind), Decoding())
        assert image.decode(4).shape == (25, 26, 3)
