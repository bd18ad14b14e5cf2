"""Features come from disk where nothing changed that determines them, and anew where it did."""

import copy
import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ibot_jax import pretrained, sharding
from ibot_jax.data.sources import open_source
from ibot_jax.errors import UserError
from ibot_jax.evaluate import cache as caches
from ibot_jax.evaluate.cache import FeatureCache
from ibot_jax.evaluate.opening import Views

VIEWS = Views(size=(16, 16), resize=16, channels=3, batch_size=16)


@pytest.fixture(scope="module")
def loaded(workdir):
    return pretrained.load(workdir)


@pytest.fixture
def folder(images, tmp_path):
    """Returns a copy of the test images."""
    return shutil.copytree(f"{images}/test", tmp_path / "images")


@pytest.fixture
def extractions(monkeypatch):
    """Returns a list that grows with every extraction."""
    calls = []
    extract = FeatureCache._extract

    def counted(self, *args):
        calls.append(args)
        return extract(self, *args)

    monkeypatch.setattr(FeatureCache, "_extract", counted)
    return calls


def features(tmp_path, loaded, folder, views=VIEWS, devices=8, **options):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    cache = FeatureCache(str(tmp_path / "cache"), *loaded, mesh, **options)
    return cache(open_source(f"folder:{folder}", "train"), views, "test")


@pytest.fixture(scope="module")
def kept(loaded, images, tmp_path_factory):
    """Returns a folder of images, and one with a cache of their features."""
    cached = tmp_path_factory.mktemp("kept")
    return f"{images}/test", cached, features(cached, loaded, f"{images}/test")


def test_they_are_the_tokens_of_the_images(loaded, kept):
    model, params = loaded
    folder, _, found = kept
    pixels = [
        np.asarray(Image.open(path).resize((17, 16), Image.Resampling.BICUBIC))
        for path in sorted(pathlib.Path(folder).glob("*/*.png"))
    ]
    tokens = model.tokens(params, np.stack(pixels)[:, :, :16])
    np.testing.assert_allclose(found.values, tokens[:, 0], atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1, 2], 5))
    np.testing.assert_array_equal(found.rows, np.arange(15))


def test_they_do_not_depend_on_the_number_of_devices(kept, loaded, tmp_path):
    folder, _, eight = kept
    one = features(tmp_path, loaded, folder, devices=1)
    np.testing.assert_allclose(one.values, eight.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one.labels, eight.labels)


def test_the_second_time_they_come_from_disk(kept, loaded, extractions):
    folder, cached, first = kept
    second = features(cached, loaded, folder, devices=1)
    assert not extractions
    for name in ("values", "labels", "rows"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def changed_weights(loaded):
    return loaded[0], jax.tree.map(lambda x: x * 1.01, loaded[1])


def changed_dtype(loaded):
    model = dataclasses.replace(loaded[0], config=copy.deepcopy(loaded[0].config))
    model.config.dtype = "bfloat16"
    return model, loaded[1]


CHANGES = {
    "weights": (changed_weights, {}),
    "dtype": (changed_dtype, {}),
    "size": (None, {"views": Views((12, 16), 16, 3, 16)}),
    "resize": (None, {"views": Views((16, 16), 20, 3, 16)}),
    "kind": (None, {"kind": "mean"}),
    "blocks": (None, {"blocks": 2}),
}


@pytest.mark.parametrize(("change", "options"), CHANGES.values(), ids=CHANGES)
def test_what_determines_them_makes_them_anew(kept, loaded, extractions, change, options):
    folder, cached, before = kept
    after = features(cached, change(loaded) if change else loaded, folder, **options)
    assert len(extractions) == 1
    assert before.values.shape != after.values.shape or np.any(before.values != after.values)


def test_so_does_another_image(tmp_path, loaded, folder, extractions):
    before = features(tmp_path, loaded, folder, kind="pixels")
    Image.new("RGB", (20, 20)).save(folder / "blue/00.png")
    after = features(tmp_path, loaded, folder, kind="pixels")
    changed = np.any(before.values != after.values, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [0])
    Image.new("RGB", (20, 20)).save(folder / "red/new.png")
    assert len(features(tmp_path, loaded, folder, kind="pixels").values) == 16
    assert len(extractions) == 3


def test_images_that_cannot_be_read_have_no_row(tmp_path, loaded, folder):
    (folder / "green/00.png").write_bytes(b"no image")
    found = features(tmp_path, loaded, folder)
    np.testing.assert_array_equal(found.rows, [*range(5), *range(6, 15)])
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1, 2], [5, 4, 5]))
    assert len(found.values) == 14


def test_a_failed_extraction_leaves_nothing(tmp_path, loaded, folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches, "_take_place", fail)
    with pytest.raises(UserError, match=r"--cache=.* cannot be written \(No space left"):
        features(tmp_path, loaded, folder, kind="pixels")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_entry_is_named(tmp_path, loaded, folder):
    features(tmp_path, loaded, folder, kind="pixels")
    next((tmp_path / "cache").glob("*/features.f32")).write_bytes(b"short")
    with pytest.raises(UserError, match=r"is damaged .*; remove it"):
        features(tmp_path, loaded, folder, kind="pixels")


def test_the_folder_is_local(tmp_path, loaded):
    with pytest.raises(UserError, match="must be a local folder"):
        FeatureCache("gs://bucket/cache", *loaded, sharding.make_mesh())
