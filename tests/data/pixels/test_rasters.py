"""Images of any number of channels and any type: what public writers write comes back as levels."""

import importlib.util
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.resize import Box
from ibot_jax.data.pixels.unreadable import UnreadableImage


def numbers(*shape, dtype=np.uint16, high=65535):
    found = np.random.default_rng(0).integers(0, high, shape, endpoint=True)
    return found.astype(dtype)


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def saved(values, **named):
    file = io.BytesIO()
    np.savez_compressed(file, **named) if named else np.save(file, values)
    return file.getvalue()


def decode(data, channels, shrink=1, boxes=(), **decoding):
    image = EncodedImage(data, Decoding(channels, **decoding))
    found = image.decode(shrink, boxes)
    assert found.shape[:2] == (-(-image.height // shrink), -(-image.width // shrink))
    return found


LAYOUTS = {
    "contiguous": dict(photometric="minisblack", planarconfig="contig"),
    "planar": dict(photometric="minisblack", planarconfig="separate"),
    "pages": dict(photometric="minisblack"),
    "tiles": dict(photometric="minisblack", planarconfig="contig", tile=(16, 32)),
    "planar tiles": dict(photometric="minisblack", planarconfig="separate", tile=(16, 16)),
    "deflate": dict(photometric="minisblack", planarconfig="contig", compression="zlib"),
    "big": dict(photometric="minisblack", planarconfig="contig", bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("channels", [5, 10, 32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_channels_of_a_tiff(layout, channels):
    values = numbers(40, 56, channels)
    first = layout in ("planar", "pages", "planar tiles")
    written = np.moveaxis(values, -1, 0) if first else values
    found = decode(tiff(np.ascontiguousarray(written), **LAYOUTS[layout]), channels)
    np.testing.assert_array_equal(found, values // 256)


@pytest.mark.parametrize(
    ("dtype", "high", "white", "expected"),
    [
        (np.uint8, 255, 0, lambda x: x),
        (np.uint16, 65535, 0, lambda x: x // 256),
        (np.uint16, 4095, 4095, lambda x: x // 16),
        (np.int16, 32767, 32767, lambda x: x // 128),
        (np.uint32, 2**32 - 1, 2**32 - 1, lambda x: x // 2**24),
        (np.int32, 2**20 - 1, 2**20 - 1, lambda x: x // 2**12),
        (np.float32, 1000, 1000.0, lambda x: np.round(x * 0.255)),
        (np.float64, 1000, 1000.0, lambda x: np.round(x * 0.255)),
        (np.float16, 1000, 1000.0, lambda x: np.round(x * 0.255)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("write", [tiff, saved])
def test_every_type_is_scaled_by_the_range(write, channels, dtype, high, white, expected):
    values = numbers(9, 13, channels, dtype=dtype, high=high)
    options = dict(photometric="minisblack") if write is tiff else {}
    if write is tiff and channels > 1:
        options["planarconfig"] = "contig"
    found = decode(write(np.squeeze(values), **options), channels, range=white, bands=channels > 1)
    wanted = expected(values.astype(float)).astype(int) if white else expected(values)
    difference = found.reshape(values.shape).astype(int) - np.floor(wanted)
    assert np.abs(difference).max() <= (values.dtype.kind == "f")  # halves, in float32
    assert np.mean(difference != 0) < 0.01


@pytest.mark.parametrize("shape", [(9, 13, 6), (6, 9, 13)])
def test_channels_of_an_array_come_last_or_first(shape):
    values = numbers(*shape, dtype=np.uint8, high=255)
    last = values if shape[-1] == 6 else np.moveaxis(values, 0, -1)
    np.testing.assert_array_equal(decode(saved(values), 6), last)
    np.testing.assert_array_equal(decode(saved(None, image=values, other=np.ones(3)), 6), last)
    np.testing.assert_array_equal(decode(saved(None, anything=values), 6), last)
    np.testing.assert_array_equal(decode(values, 6) if shape[-1] == 6 else last, last)


def test_arrays_that_are_no_images_are_told():
    for data, reason in (
        (saved(None, a=np.ones(3), b=np.ones(3)), "its arrays are a, b; one is to be called image"),
        (saved(np.ones(3)), r"an array of the shape \(3,\) is no image"),
        (saved(np.ones((4, 4), np.complex64)), "it holds complex64, which are no pixels"),
        (saved(np.full((4, 4), np.nan)), "no finite numbers"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            decode(data, 1, range=1)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        decode(pickled.getvalue(), 1)


@pytest.mark.parametrize("found", [3, 4, 10])
def test_other_channels_than_are_wanted_are_told(found):
    values = numbers(8, 8, found, dtype=np.uint8, high=255)
    encoded = tiff(values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UnreadableImage, match=f"it has {found} channels, .* data.channels=7"):
        decode(encoded, 7)
    picture = io.BytesIO()
    Image.fromarray(values[..., :3]).save(picture, "PNG")
    with pytest.raises(UnreadableImage, match="it has 3 channels, .* data.channels=7"):
        decode(picture.getvalue(), 7)
    if found == 10:
        with pytest.raises(UnreadableImage, match="it has 10 channels, .* data.channels=3"):
            decode(encoded, 3)


def test_bands_are_no_alpha():
    """Alpha of 0 hides colours when an image is made smaller; a band of 0 hides nothing."""
    values = np.full((16, 16, 4), 200, np.uint8)
    values[..., 3] = 0
    encoded = tiff(values, photometric="rgb", extrasamples=["unassalpha"])
    assert not decode(encoded, 4, shrink=2)[..., :3].any()
    np.testing.assert_array_equal(decode(encoded, 4, shrink=2, bands=True), values[::2, ::2])


@pytest.mark.parametrize("channels", [1, 3])
def test_pages_are_frames_or_the_first_counts(channels):
    values = numbers(5, 12, 14, dtype=np.uint8, high=255)
    encoded = tiff(values, photometric="minisblack")
    assert decode(encoded, channels).shape[:2] == (12, 14)
    np.testing.assert_array_equal(decode(encoded, 1), values[0])
    np.testing.assert_array_equal(decode(encoded, 5), np.moveaxis(values, 0, -1))
    for frame in (0, 3):
        data = Excerpt(io.BytesIO(encoded), frame)
        np.testing.assert_array_equal(decode(data, 1), values[frame])
        np.testing.assert_array_equal(decode(Excerpt(saved(values), frame), 1), values[frame])
    for data in (encoded, saved(values)):
        with pytest.raises(UnreadableImage, match="it has 5 frames, and frame 5 .* is none"):
            decode(Excerpt(data, 5), 1)


def test_smaller_copies_and_masks_are_no_channels():
    values = numbers(3, 64, 64)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in values:
            writer.write(page, photometric="minisblack")
            writer.write(page > 9, photometric="minisblack")
        writer.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    found = decode(file.getvalue(), 3, bands=True)
    np.testing.assert_array_equal(found, np.moveaxis(values, 0, -1) // 256)


def test_the_header_tells_channels_and_type():
    for layout, expected in (("pages", "6 x uint16"), ("contiguous", "6 x uint16")):
        values = numbers(6, 8, 9) if layout == "pages" else numbers(8, 9, 6)
        image = EncodedImage(tiff(values, **LAYOUTS[layout]), Decoding(6))
        assert (image.mode, image.height, image.width) == (expected, 8, 9)
    assert (
        EncodedImage(saved(numbers(8, 9, 6, dtype=np.float32)), Decoding(6)).mode == "6 x float32"
    )


def test_numbers_of_a_few_bits_are_no_levels():
    """Written by hand: 4 x 2 greys of four bits, one strip, twice, as two pages."""
    entries = [(256, 4), (257, 2), (258, 4), (259, 1), (262, 1), (273, 0), (277, 1), (278, 2)]
    entries.append((279, 4))
    size = 2 + 12 * len(entries) + 4
    file = b"II*\0" + struct.pack("<I", 8)
    for page in range(2):
        start = 8 + 2 * 0 + page * (size + 4)
        file += struct.pack("<H", len(entries))
        for tag, value in entries:
            value = start + size if tag == 273 else value
            file += struct.pack("<HHII", tag, 4, 1, value)
        file += struct.pack("<I", 0 if page else start + size + 4) + b"\x12\x34\x56\x78"
    assert np.asarray(Image.open(io.BytesIO(file))).shape == (2, 4)
    with pytest.raises(UnreadableImage, match="its numbers have 4 bits; convert it"):
        decode(file, 2, bands=True)


def test_zero_may_be_white():
    values = numbers(8, 8, 5)
    encoded = tiff(values, photometric="miniswhite", planarconfig="contig")
    np.testing.assert_array_equal(decode(encoded, 5), (65535 - values) // 256)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_go_by_the_range_where_there_is_one(kind, channels, png):
    values = numbers(6, 10, channels, high=4095)
    if kind == "PNG":
        rows = [row.astype(">u2").tobytes() for row in values]
        encoded = png(10, 6, 16, {3: 2, 4: 6}[channels], rows)
    else:
        extra = {4: ["unassalpha"]}.get(channels)
        encoded = tiff(values, photometric="rgb", extrasamples=extra)
    np.testing.assert_array_equal(decode(encoded, channels), values // 256)
    np.testing.assert_array_equal(decode(encoded, channels, range=4095), values // 16)


@pytest.mark.parametrize(("orientation", "turn"), [(6, lambda x: np.rot90(x, -1)), (2, np.fliplr)])
def test_rasters_are_turned_where_that_is_wanted(orientation, turn):
    values = numbers(8, 12, 6, dtype=np.uint8, high=255)
    tag = [(274, "H", 1, orientation, True)]
    encoded = tiff(values, extratags=tag, **LAYOUTS["contiguous"])
    np.testing.assert_array_equal(decode(encoded, 6), values)
    np.testing.assert_array_equal(decode(encoded, 6, exif=True), turn(values))
    box = Box(0, 0, 4, 4)
    part = decode(encoded, 6, boxes=[box], exif=True)
    np.testing.assert_array_equal(part[:4, :4], turn(values)[:4, :4])


@pytest.mark.parametrize("write", [tiff, saved])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_percentiles_of_each_channel_become_black_and_white(write, dtype):
    values = numbers(50, 60, 6, dtype=dtype, high=250) * np.arange(1, 7).astype(dtype) // 6
    options = dict(photometric="minisblack", planarconfig="contig") if write is tiff else {}
    found = decode(write(values, **options), 6, clip_percentiles=(2, 98)).astype(int)
    for channel in range(6):
        low, high = np.percentile(values[..., channel].astype(float), (2, 98))
        wanted = np.clip((values[..., channel] - low) / (high - low), 0, 1) * 255
        assert np.abs(found[..., channel] - wanted).max() < 0.51


def test_percentiles_of_pictures_leave_alpha_alone():
    values = numbers(20, 30, 4, dtype=np.uint8, high=100)
    for kind in ("PNG", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(values).save(file, kind, lossless=True, exact=True)
        found = decode(file.getvalue(), 4, clip_percentiles=(1, 99))
        np.testing.assert_array_equal(found[..., 3], values[..., 3])
        assert found[..., :3].max() == 255
    constant = np.full((8, 8), 7, np.uint8)
    file = io.BytesIO()
    Image.fromarray(constant).save(file, "JPEG")
    assert not decode(file.getvalue(), 3, clip_percentiles=(1, 99)).any()


@pytest.mark.parametrize("shrink", [1, 2, 4])
@pytest.mark.parametrize("layout", ["tiles", "planar tiles", "contiguous"])
def test_of_tiles_those_are_read_that_boxes_need(layout, shrink):
    values = numbers(130, 170, 5)
    first = layout == "planar tiles"
    written = np.ascontiguousarray(np.moveaxis(values, -1, 0) if first else values)
    options = LAYOUTS[layout] | ({} if "tile" in LAYOUTS[layout] else {"rowsperstrip": 8})
    encoded = tiff(written, **options)
    whole = decode(encoded, 5, shrink)
    boxes = [Box(3, 5, 20, 31), Box(100, 150, 30, 20)]
    part = decode(encoded, 5, shrink, boxes)
    for top, left, height, width in boxes:
        rows = slice(top // shrink, -(-(top + height) // shrink))
        columns = slice(left // shrink, -(-(left + width) // shrink))
        np.testing.assert_array_equal(part[rows, columns], whole[rows, columns])
    assert not part[60 // shrink : 80 // shrink].any()  # which no box needs


def test_pictures_in_tiles_are_read_by_tiles_where_that_saves_work():
    values = numbers(128, 160, 3, dtype=np.uint8, high=255)
    encoded = tiff(values, photometric="rgb", tile=(32, 32), compression="zlib")
    few = decode(encoded, 3, 1, [Box(1, 2, 20, 20)])
    np.testing.assert_array_equal(few[1:21, 2:22], values[1:21, 2:22])
    assert not few[64:].any()
    np.testing.assert_array_equal(decode(encoded, 3, 1, [Box(1, 2, 120, 150)]), values)


@pytest.mark.parametrize("kind", ["TIFF", "tiles", "JPEG", "PNG", "npy"])
def test_a_window_is_an_image_of_its_own(kind):
    values = numbers(64, 80, 3, dtype=np.uint8, high=255)
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, values)
    elif kind == "tiles":
        tifffile.imwrite(file, values, photometric="rgb", tile=(16, 16))
    else:
        Image.fromarray(values).save(file, kind)
    whole = decode(file.getvalue(), 3)
    box = Box(7, 9, 30, 41)
    image = EncodedImage(Excerpt(file, box=box), Decoding())
    assert (image.height, image.width) == (30, 41)
    np.testing.assert_array_equal(image.decode(), whole[7:37, 9:50])
    shrunk = EncodedImage(Excerpt(file, box=box), Decoding()).decode(2, [Box(2, 2, 8, 8)])
    wanted = np.asarray(Image.fromarray(whole[7:37, 9:50]).reduce(2))
    np.testing.assert_array_equal(shrunk[1:5, 1:5], wanted[1:5, 1:5])
    with pytest.raises(UnreadableImage, match="80 x 64 pixels, and none in the window x=50 y=0"):
        EncodedImage(Excerpt(file, box=Box(0, 50, 64, 31)), Decoding())


@pytest.mark.skipif(bool(importlib.util.find_spec("imagecodecs")), reason="it is there")
def test_a_compression_that_needs_more_names_the_extra():
    file = io.BytesIO()
    Image.fromarray(numbers(16, 16, 3, dtype=np.uint8)).save(file, "TIFF", compression="tiff_lzw")
    assert decode(file.getvalue(), 3).shape == (16, 16, 3)  # Pillow's business
    with pytest.raises(UnreadableImage, match=r"LZW needs imagecodecs: .*'ibot-jax\[tiff"):
        decode(file.getvalue(), 3, bands=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_percentiles_are_those_of_numpy(dtype, size):
    values = numbers(size, 1, 1, dtype=dtype, high=200)
    for low, high in ((1, 99), (0, 100), (12.5, 37.5), (50, 51)):
        bounds = np.percentile(values, (low, high))
        width = max(bounds[1] - bounds[0], 1e-30)
        wanted = np.round(np.clip((values - bounds[0]) / width, 0, 1) * 255)
        found = decode(values, 1, clip_percentiles=(low, high)).astype(int)
        assert np.abs(found - wanted[..., 0]).max() <= 1


@pytest.mark.parametrize("write", [tiff, saved])
def test_truth_is_white(write):
    values = numbers(6, 8, 9, high=1).astype(bool)
    found = decode(write(values, **(LAYOUTS["pages"] if write is tiff else {})), 6)
    np.testing.assert_array_equal(found, 255 * np.moveaxis(values, 0, -1))


@pytest.mark.parametrize(
    ("dtype", "text", "missing"),
    [(np.float32, "nan", np.nan), (np.float32, "-9999", -9999), (np.int16, "-32768", -32768)],
)
@pytest.mark.parametrize("channels", [1, 6])
def test_what_a_geotiff_calls_missing_is_0(dtype, text, missing, channels):
    values = numbers(8, 9, channels, dtype=dtype, high=1000)
    encoded = np.where(values < 200, dtype(missing), values)
    tag = [(42113, "s", 0, text, True)]
    options = LAYOUTS["contiguous"] if channels > 1 else {}
    encoded = tiff(np.squeeze(encoded), extratags=tag, **options)
    found = decode(encoded, channels, range=1000).reshape(values.shape)
    wanted = np.where(values < 200, 0, values) / 1000 * 255
    assert np.abs(found - wanted).max() < 1
