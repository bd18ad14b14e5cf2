"""DICOM files: levels by the window, as stored or given, slope and intercept, MONOCHROME1."""

import io

import numpy as np
import pytest
from scans import scan

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.pixels.opening import Excerpt
from ibot_jax.data.pixels.unreadable import UnreadableImage

pydicom = pytest.importorskip("pydicom")


def decode(data, channels=1, **decoding):
    return EncodedImage(data, Decoding(channels, **decoding)).decode()


def tissue(dtype=np.int16, low=-1000, high=2000, shape=(20, 30)):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_stored_window_is_what_pydicom_makes_of_it(function, inverted):
    tags = dict(RescaleSlope=2, RescaleIntercept=-100, VOILUTFunction=function)
    tags |= dict(WindowCenter=[40, 500], WindowWidth=[400, 2000])
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    encoded = scan(tissue(), photometric=kind, **tags)
    found = decode(encoded).astype(int)
    dataset = pydicom.dcmread(io.BytesIO(encoded))
    units = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    levels = pydicom.pixels.apply_windowing(units, dataset)
    low, high = np.array([-2048, 2047]) * 2.0 - 100  # what its 12 bits hold, with a sign
    wanted = (levels - low) / (high - low) * 255
    assert np.abs(found - (255 - wanted if inverted else wanted)).max() < 0.51
    assert found.min() < 3 and found.max() > 252


def test_a_given_window_replaces_it():
    encoded = scan(tissue(), RescaleSlope=1, RescaleIntercept=-24, WindowCenter=1, WindowWidth=2)
    found = decode(encoded, window=(50, 400)).astype(int)
    wanted = np.clip((tissue() - 24.0 + 150) / 400, 0, 1) * 255
    assert np.abs(found - wanted).max() < 0.51


@pytest.mark.parametrize(
    ("dtype", "low", "bits", "black"), [(np.uint16, 0, 12, 0), (np.int16, -2048, 12, -2048)]
)
def test_without_a_window_all_that_the_bits_hold_is_shown(dtype, low, bits, black):
    values = tissue(dtype, low, low + 4096)
    found = decode(scan(values, bits, RescaleSlope=3, RescaleIntercept=7)).astype(int)
    assert np.abs(found - (values.astype(float) - black) / 4095 * 255).max() < 0.51
    found = decode(scan(np.clip(values, 0, None)), range=1000).astype(int)
    assert np.abs(found - np.clip(values / 1000, 0, 1) * 255).max() < 0.51


def test_a_table_of_levels_is_looked_up():
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = np.arange(65535, 65535 - 4096, -1, dtype="<u2").tobytes()
    values = tissue(np.uint16, 0, 4096)
    found = decode(scan(values, VOILUTSequence=[table])).astype(int)
    assert np.abs(found - (65535 - values) / 65535 * 255).max() < 0.51


def test_percentiles_go_before_windows():
    encoded = scan(tissue(), WindowCenter=0, WindowWidth=1, photometric="MONOCHROME1")
    low, high = np.percentile(tissue(), (5, 90))
    found = decode(encoded, clip_percentiles=(10, 95)).astype(int)
    wanted = np.clip((high - tissue()) / (high - low), 0, 1) * 255
    assert np.abs(found - wanted).max() < 0.51


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_eight_bits_stay(channels):
    values = tissue(np.uint8, 0, 256, (6, 8, 3))
    found = decode(scan(values, 8, "RGB"), channels)
    np.testing.assert_array_equal(found if channels == 3 else values, values)
    assert found.shape == (6, 8, 3)[: 2 + (channels == 3)]


def test_frames_are_images_or_channels():
    values = tissue(np.uint8, 0, 256, (5, 8, 6))
    encoded = scan(values, 8)
    np.testing.assert_array_equal(decode(encoded), values[0])
    for frame in range(5):
        np.testing.assert_array_equal(decode(Excerpt(encoded, frame)), values[frame])
    np.testing.assert_array_equal(decode(encoded, 5), np.moveaxis(values, 0, -1))
    with pytest.raises(UnreadableImage, match="5 frames, and frame 7"):
        decode(Excerpt(encoded, 7))


def test_files_of_many_frames_say_in_groups_what_numbers_mean():
    def group(center, slope):
        window, scale, found = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 200, "LINEAR_EXACT"
        scale.RescaleSlope, scale.RescaleIntercept = slope, -10
        found.FrameVOILUTSequence, found.PixelValueTransformationSequence = [window], [scale]
        return found

    values = tissue(np.uint16, 0, 400, (3, 8, 6))
    groups = dict(SharedFunctionalGroupsSequence=[group(100, 1)])
    groups["PerFrameFunctionalGroupsSequence"] = [pydicom.Dataset(), group(300, 2), group(50, 3)]
    encoded = scan(values, **groups)
    for frame, center, slope in ((0, 100, 1), (1, 300, 2), (2, 50, 3)):
        units = values[frame] * float(slope) - 10
        wanted = np.clip((units - center + 100) / 200, 0, 1) * 255
        assert np.abs(decode(Excerpt(encoded, frame)).astype(int) - wanted).max() < 0.51


@pytest.mark.parametrize("tags", [dict(WindowCenter=40), dict(WindowCenter=[], WindowWidth=[])])
def test_half_a_window_is_none(tags):
    values = tissue(np.uint16, 0, 4096)
    np.testing.assert_array_equal(decode(scan(values, **tags)), decode(scan(values)))


def test_size_and_type_are_known_before_decoding():
    image = EncodedImage(scan(tissue()), Decoding(1))
    assert (image.height, image.width) == (20, 30)
    assert image.mode == "1 x MONOCHROME2 of 12 bits"


def test_a_missing_package_names_the_extra(monkeypatch):
    encoded = scan(tissue())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(UnreadableImage, match=r"DICOM needs pydicom: pip install 'ibot-jax\[dicom"):
        decode(encoded)


def test_a_file_that_is_cut_off_is_told():
    encoded = scan(tissue())
    with pytest.raises(Exception, match="reshape array of size 400"):
        decode(encoded[:-400])
