"""Images are cut as timm and transformers cut them, and they are told to cut them as here."""

import json
import math
import pathlib

import numpy as np
import pytest
from foreign_views import PLACES, noise

from ibot_jax.convert.preprocessing import (
    from_timm,
    from_transformers,
    to_timm,
    to_transformers,
)
from ibot_jax.data.central import CentralView, view_of_run
from ibot_jax.errors import UserError

DATA = pathlib.Path(__file__).parent.parent / "data"
RECORDED = json.loads((DATA / "foreign_views.json").read_text())
READ = {"timm": from_timm, "transformers": from_transformers}
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library in READ for name in RECORDED[library]]
)
def test_pixels_are_those_that_the_library_made(library, name):
    recorded = RECORDED[library][name]
    read = READ[library](recorded["settings"], "x.json")
    assert not read.notes
    for picture in recorded["pictures"]:
        pixels = np.asarray(read.view.cut(noise(*picture["picture"])))
        assert list(pixels.shape[:2]) == picture["size"]
        np.testing.assert_array_equal([pixels[place] for place in PLACES], picture["pixels"])


@pytest.mark.parametrize(
    "view",
    [
        view_of_run((224, 224), 256),
        view_of_run((16, 32), 36),
        view_of_run((32, 16), 33),
        view_of_run((96, 160), 183),
        CentralView((16, 16), (16, 16), "squash", "bilinear"),
        CentralView((16, 24), (18, 27), "squash", "lanczos"),
        CentralView((16, 16), (12, 12), interpolation="box"),
    ],
    ids=str,
)
def test_timm_is_told_what_it_takes_to_cut_as_here(view):
    settings, remarks = to_timm(view)
    read = from_timm(settings | {"input_size": [3, *view.size]}, "x.json")
    assert (read.view, remarks) == (view, ())


def test_timm_floors_to_every_shorter_side():
    for size in range(4, 300, 4):
        for resize in range(size // 2, 2 * size):
            settings, _ = to_timm(view_of_run((size, size), resize))
            assert math.floor(size / settings["crop_pct"]) == resize


def test_what_timm_cannot_do_is_said():
    _, remarks = to_timm(CentralView((16, 32), (36, 36)))  # an export from before
    assert "cannot resize to 36 x 36 before a crop of 16 x 32" in remarks[0]
    _, remarks = to_timm(CentralView((16, 16), (18, 18), rounding="down"))
    assert "begins one pixel after" in remarks[0]


@pytest.mark.parametrize(
    "view",
    [
        CentralView((16, 16), (24, 24), rounding="down"),
        CentralView((16, 28), (30, 30), interpolation="bilinear", rounding="down"),
        CentralView((16, 16), (16, 16), "squash", "bilinear", "down"),
        CentralView((16, 24), (18, 27), "squash", "lanczos", "down"),
    ],
    ids=str,
)
def test_transformers_is_told_what_it_takes_to_cut_as_here(view):
    settings, remarks = to_transformers(view, HALF, HALF)
    read = from_transformers(settings, "x.json")
    assert (read.view, remarks, read.notes) == (view, (), ())
    assert (*read.mean, *read.std) == (*HALF, *HALF)


def test_what_transformers_cannot_do_is_said():
    _, remarks = to_transformers(view_of_run((16, 16), 18), HALF, HALF)
    assert "begins one pixel before" in remarks[0]
    settings, remarks = to_transformers(view_of_run((16, 32), 36), HALF, HALF)
    assert settings == {"image_processor_type": "TimmWrapperImageProcessor"}
    assert "needs timm" in remarks[0]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (dict(crop_mode="border"), "crop_mode='border', which is not taken: 'center' is"),
        (dict(interpolation="random"), "interpolation='random', which is not taken: bicubic is"),
    ],
)
def test_what_of_timm_is_not_taken_is_named(settings, note):
    read = from_timm({"input_size": [3, 16, 16]} | settings, "x/config.json")
    assert f"x/config.json has {note}" in read.notes
    assert read.view == CentralView((16, 16), (18, 18))


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (dict(crop_pct=0.9), "has crop_pct=0.9, which is not taken"),
        (dict(do_pad=True), "has do_pad=True, which is not taken"),
        (dict(image_processor_type="NewImageProcessor"), "is of NewImageProcessor; it is read as"),
        (dict(do_resize=False), "resizes nothing"),
    ],
)
def test_what_of_transformers_is_not_taken_is_named(settings, note):
    told = {"image_processor_type": "ViTImageProcessor", "size": 16} | settings
    assert any(note in line for line in from_transformers(told, "x.json").notes)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        (dict(do_normalize=False), 0.0, 1.0),
        (dict(do_rescale=False, image_mean=[102.0], image_std=[51.0]), 0.4, 0.2),
        (dict(rescale_factor=1 / 127.5, image_mean=[1.0], image_std=[0.5]), 0.5, 0.25),
        (dict(image_mean=[0.4], image_std=[0.2]), 0.4, 0.2),
    ],
)
def test_mean_and_deviation_are_of_pixels_from_0_to_1(settings, mean, std):
    read = from_transformers({"image_processor_type": "ViTImageProcessor"} | settings, "x.json")
    assert [*read.mean, *read.std] == pytest.approx([mean, std])


@pytest.mark.parametrize(
    ("read", "settings"),
    [
        (from_timm, {"input_size": 16}),
        (from_timm, {"input_size": [3, 16, "x"]}),
        (from_timm, {"input_size": [3, 16, 16], "crop_pct": 1e-320}),
        (from_timm, {"input_size": [3, 16, 16], "crop_pct": -1}),
        (from_timm, {"input_size": [3, 16, 16], "crop_pct": "0.9"}),
        (from_transformers, {"size": "large"}),
        (from_transformers, {"size": {"height": 16}}),
        (from_transformers, {"size": 16, "resample": 77}),
        (from_transformers, {"image_processor_type": "BitImageProcessor", "crop_size": {"x": 1}}),
        (from_transformers, {"size": {"shortest_edge": 16}}),
        (from_transformers, {"image_mean": 3, "image_std": 1, "rescale_factor": 1}),
    ],
)
def test_nonsense_is_refused_by_file(read, settings):
    with pytest.raises(UserError, match=r"^x\.json describes no preprocessing"):
        read(settings, "x.json")
