"""What files hold that are not eight bits and upright, and what is said of it."""

import io
import os
import socket

import numpy as np
import pytest
from PIL import Image, ImageOps

from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.pipeline import eval_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.unreadable import UnreadableImage, in_words
from ibot_jax.data.sources.folders import read_file
from ibot_jax.data.sources.opening import open_source
from ibot_jax.parallel.shares import all_rows

RAMP = np.arange(256).reshape(16, 16)


def encode(pixels, kind="TIFF", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def decode(encoded, **decoding):
    """Returns the grey pixels, and what is odd about them."""
    image = EncodedImage(encoded, Decoding(channels=1, **decoding))
    return image.decode(), image.note


@pytest.mark.parametrize(
    ("kind", "dtype", "bits", "range_"),
    [
        ("PNG", np.uint16, 16, 0),
        ("TIFF", np.uint16, 16, 0),
        ("TIFF", np.int32, 16, 0),
        ("PNG", np.uint16, 16, 65535),
        ("PNG", np.uint16, 12, 4095),
        ("PNG", np.uint16, 10, 1023),
        ("PNG", np.uint16, 8, 255),
        ("TIFF", np.int32, 8, 255),
        ("TIFF", np.int32, 20, 2**20 - 1),
    ],
)
def test_of_deep_greys_the_upper_eight_bits_of_the_range_are_kept(kind, dtype, bits, range_):
    deep = (RAMP * 2 ** (bits - 8) + 2 ** (bits - 8) // 3).astype(dtype)
    found, note = decode(encode(deep, kind), range=range_)
    np.testing.assert_array_equal(found, RAMP)
    assert not note


@pytest.mark.parametrize(("high", "likely"), [(200, 255), (255, 255), (4095, 4095), (9000, 16383)])
def test_greys_that_use_few_of_their_bits_are_named_with_the_remedy(high, likely):
    pixels = np.linspace(0, high, 64).astype(np.uint16).reshape(8, 8)
    found, note = decode(encode(pixels, "PNG"))
    np.testing.assert_array_equal(found, pixels // 256)
    assert f"its values reach {high} of 65535, so it is dark" in note
    assert f"data.range={likely} (--range={likely})" in note
    assert not decode(encode(pixels, "PNG"), range=likely)[1]


def test_what_lies_beyond_the_range_is_named():
    found, note = decode(encode(np.array([[0, 300]], np.uint16)), range=255)
    assert found.tolist() == [[0, 255]] and "reach 300: those above 255 are white" in note
    found, note = decode(encode(np.array([[-5, 60000]], np.int32)))
    assert found.tolist() == [[0, 60000 // 256]] and "reach -5: those below 0 are black" in note


def test_floats_need_a_range():
    pixels = (RAMP / 255).astype(np.float32)
    with pytest.raises(UnreadableImage, match="no known range; data.range"):
        decode(encode(pixels))
    np.testing.assert_array_equal(decode(encode(pixels), range=1)[0], RAMP)
    pixels[3, 4] = np.nan
    with pytest.raises(UnreadableImage, match="no finite numbers"):
        decode(encode(pixels), range=1)


def test_one_bit_and_eight_bits_and_palettes_know_no_range():
    bits = RAMP > 99
    file = io.BytesIO()
    Image.fromarray(bits).save(file, "PNG")
    np.testing.assert_array_equal(decode(file.getvalue(), range=7)[0], 255 * bits)
    eight = encode(RAMP.astype(np.uint8), "PNG")
    np.testing.assert_array_equal(decode(eight, range=7)[0], RAMP)
    file = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).convert("P").save(file, "PNG")
    np.testing.assert_array_equal(decode(file.getvalue(), range=7)[0], RAMP)


@pytest.mark.parametrize(("high", "dark"), [(255, True), (4095, True), (65535, False)])
def test_dark_colours_of_sixteen_bits_are_named(high, dark, png):
    pixels = np.linspace(0, high, 48).astype(">u2").reshape(4, 4, 3)
    encoded = png(4, 4, 16, 2, [row.tobytes() for row in pixels])
    image = EncodedImage(encoded, Decoding())
    np.testing.assert_array_equal(image.decode(), pixels // 256)
    assert ("16-bit colours are dark" in image.note) == dark


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 3)])
def test_exif_orientation_is_applied_where_that_is_wanted(orientation, kind, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(pixels, kind, exif=exif)
    decoding = dict(channels=1 if len(shape) == 2 else 3)
    plain = Image.open(io.BytesIO(encoded))
    left = EncodedImage(encoded, Decoding(**decoding))
    np.testing.assert_array_equal(left.decode(), np.asarray(plain))
    upright = np.asarray(ImageOps.exif_transpose(plain))
    turned = EncodedImage(encoded, Decoding(exif=True, **decoding))
    assert (turned.height, turned.width) == upright.shape[:2]
    np.testing.assert_array_equal(turned.decode(), upright)
    smaller = EncodedImage(encoded, Decoding(exif=True, **decoding)).decode(2)
    assert smaller.shape[:2] == (upright.shape[0] // 2, upright.shape[1] // 2)


def test_large_pictures_are_named_with_size_limit_and_remedy(png):
    encoded = png(20_000, 20_000, 1, 0, [b"\xff" * 2500] * 20_000)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage, match="20,000 x 20,000 .*data.max_pixels=178,956,970"):
        EncodedImage(encoded, Decoding())
    assert EncodedImage(encoded, Decoding(max_pixels=400_000_000)).width == 20_000
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage, match="16 x 16 pixels are more than data.max_pixels=255"):
        decode(encode(RAMP.astype(np.uint8)), max_pixels=255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"no picture at all", "no image, or of an unknown format")],
)
def test_what_is_no_image_is_told_in_words(content, reason):
    with pytest.raises(UnreadableImage) as error:
        EncodedImage(content, Decoding())
    assert in_words(error.value) == reason


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"content")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "file.jpg")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere")
    short = os.path.relpath(tmp_path / "socket.jpg")  # the path of a socket has little room
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(short)
        for name, reason in (
            ("pipe", "a pipe and no"),
            ("device", "a device and no"),
            ("folder", "a folder and no"),
            ("socket", "a socket and no"),
        ):
            for prefix in ("", "file://"):
                with pytest.raises(UnreadableImage, match=reason):
                    read_file(f"{prefix}{tmp_path / name}.jpg")
    assert read_file(str(tmp_path / "link.jpg")) == b"content"
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "lost.jpg"))


def test_a_pipe_among_images_is_passed_by_and_odd_ones_are_named(tmp_path, caplog):
    for name in ("a.png", "c.png"):
        Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / name)
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "d.png")
    os.mkfifo(tmp_path / "b.png")
    source = open_source(f"folder:{tmp_path}", "train")
    (batch,) = eval_batches(
        source, CentralView((16, 16), (16, 16)), all_rows(4), Decoding(channels=1), workers=1
    )
    assert batch["valid"].tolist() == [True, False, True, True]
    assert f"skipped {tmp_path}/b.png: a pipe and no regular file" in caplog.messages
    (note,) = (message for message in caplog.messages if "d.png" in message)
    assert "its values reach 255 of 65535" in note and "data.range=255" in note
    (batch,) = eval_batches(
        source, CentralView((16, 16), (16, 16)), all_rows(4), Decoding(1, range=255), workers=1
    )
    np.testing.assert_array_equal(batch["images"][3], batch["images"][0])
