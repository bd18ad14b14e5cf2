"""Images are cut as timm and transformers cut them, and they are told to cut them as here."""

import argparse
import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
from etils import epath
from foreign_views import PLACES, noise
from tiny import tiny_config

from ibot_jax.data.draw.central import CentralView, view_of_run
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import open_views
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.weights.foreign.files.folder_configs import read_configs
from ibot_jax.weights.foreign.preprocessing import (
    from_timm,
    from_transformers,
    to_timm,
    to_transformers,
)
from ibot_jax.weights.model import Model

DATA = pathlib.Path(__file__).parents[2] / "data"
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


def write_folder(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return epath.Path(folder)


def test_a_folder_of_timm_says_how_images_are_cut(tmp_path):
    cfg = {"input_size": [3, 16, 24], "crop_mode": "squash", "crop_pct": 1.0, "mean": [0.5] * 3}
    folder = write_folder(tmp_path, config={"architecture": "vit", "pretrained_cfg": cfg})
    _, facts = read_configs(folder)
    assert facts["view"] == CentralView((16, 24), (16, 24), "squash")
    assert facts["mean"] == [0.5] * 3 and "std" not in facts


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_folder_of_transformers_says_how_images_are_cut(tmp_path, wrapped):
    config = {"model_type": "vit", "image_size": 16}
    if wrapped:
        config["pretrained_cfg"] = {"input_size": [3, 16, 32], "crop_pct": 32 / 36}
        processor = {"image_processor_type": "TimmWrapperImageProcessor"}
        expected = view_of_run((16, 32), 36)
    else:
        processor = {"image_processor_type": "ViTImageProcessor", "size": 16}
        expected = CentralView((16, 16), (16, 16), "squash", "bilinear", "down")
    folder = write_folder(tmp_path, config=config, preprocessor_config=processor)
    assert read_configs(folder)[1]["view"] == expected


SQUASH = CentralView((16, 24), (20, 30), "squash", "bilinear", "down")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, SQUASH),
        (dict(size=[32, 48]), dataclasses.replace(SQUASH, size=(32, 48), resize=(40, 60))),
        (dict(resize=36), dataclasses.replace(SQUASH, resize=(24, 36), fit="cover")),
    ],
)
def test_evaluations_see_images_as_the_model_is_described(flags, expected):
    config = tiny_config(data__global_size=(16, 16))
    model = Model(config, "mine", described_view=SQUASH)
    plain = {"size": None, "resize": None, "batch_size": 8, "workers": 0}
    args = argparse.Namespace(**plain | flags)
    assert open_views(args, model, make_mesh()).view == expected
    again = argparse.Namespace(**vars(args))  # what the report says finds the same
    assert open_views(again, model, make_mesh()).view == expected
