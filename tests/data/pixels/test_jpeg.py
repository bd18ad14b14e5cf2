"""Plain JPEGs are known by their header; all others, and damaged ones, are left to Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.jpeg import plain_size

RNG = np.random.default_rng(0)
KINDS = {
    "baseline": dict(),
    "progressive": dict(progressive=True),
    "full colours": dict(subsampling=0),
    "restarts": dict(restart_marker_rows=1),
    "comment": dict(comment=b"by hand"),
    "profile": dict(icc_profile=bytes(3000)),
}


def encoded(mode="RGB", size=(37, 23), **options):
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = RNG.integers(0, 256, (size[1], size[0], *channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode if mode == "CMYK" else None).save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_one_is_read_as_pillow_does_without_it(kind, monkeypatch):
    data = encoded(**KINDS[kind])
    assert plain_size(data, exif=True) == (23, 37)
    expected = by_pillow(data)
    monkeypatch.setattr(Image, "open", None)
    image = EncodedImage(data, Decoding())
    assert (image.height, image.width, image.mode) == (23, 37, "RGB")
    np.testing.assert_array_equal(image.decode(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_one_with_exif_is_left_to_pillow_where_that_counts(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(exif=exif)
    assert plain_size(data, exif=True) is None
    assert plain_size(data, exif=False) == (23, 37)
    image = EncodedImage(data, Decoding(exif=True))
    assert (image.height, image.width) == ((37, 23) if orientation > 4 else (23, 37))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode):
    data = encoded(mode)
    assert plain_size(data, exif=True) is None
    expected = by_pillow(data)
    np.testing.assert_array_equal(EncodedImage(data, Decoding()).decode(), expected)


def test_a_header_cut_anywhere_is_no_plain_one_and_an_error_in_words():
    data = encoded()
    for length in range(data.index(b"\xff\xda")):
        assert plain_size(data[:length], exif=True) is None
    with pytest.raises(Exception, match=r"truncated|broken|no image"):
        EncodedImage(data[:-300], Decoding()).decode()


def test_random_bytes_behind_the_first_two_are_none():
    for _ in range(2000):
        plain_size(b"\xff\xd8" + RNG.bytes(40), exif=True)
        assert plain_size(RNG.bytes(40), exif=True) is None


def test_one_whose_header_lies_of_its_size_is_decoded_as_pillow_does_or_not_at_all():
    data = bytearray(encoded())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = bytes((0, 0, 0, 37))  # no rows
    assert plain_size(bytes(data), exif=True) is None
