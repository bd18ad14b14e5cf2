"""Features come from disk where nothing changed that determines them, and anew where it did."""

import copy
import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.draw.central import CentralView
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import UserError
from ibot_jax.evaluate.common.opening import Views
from ibot_jax.evaluate.features import cache as caches
from ibot_jax.evaluate.features.cache import FeatureCache
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.parallel.shares import all_rows
from ibot_jax.weights.load import load

VIEWS = Views(CentralView((16, 16), (16, 16)), Decoding(), all_rows(16))


@pytest.fixture(scope="module")
def loaded(workdir):
    return load(workdir)


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
    mesh = make_mesh(jax.devices()[:devices])
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
    np.testing.assert_array_equal(found.places, np.arange(15))


def test_they_do_not_depend_on_the_number_of_devices(kept, loaded, tmp_path):
    folder, _, eight = kept
    one = features(tmp_path, loaded, folder, devices=1)
    np.testing.assert_allclose(one.values, eight.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one.labels, eight.labels)


def test_the_second_time_they_come_from_disk(kept, loaded, extractions):
    folder, cached, first = kept
    second = features(cached, loaded, folder, devices=1)
    assert not extractions
    for name in ("values", "labels", "places"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def changed_weights(loaded):
    return loaded[0], jax.tree.map(lambda x: x * 1.01, loaded[1])


def changed_dtype(loaded):
    model = dataclasses.replace(loaded[0], config=copy.deepcopy(loaded[0].config))
    model.config.dtype = "bfloat16"
    return model, loaded[1]


def changed_heads(loaded):
    """The same tensors, read as those of another model."""
    model = dataclasses.replace(loaded[0], config=copy.deepcopy(loaded[0].config))
    model.config.model.heads = 4
    return model, loaded[1]


CHANGES = {
    "weights": (changed_weights, {}),
    "dtype": (changed_dtype, {}),
    "size": (None, {"views": Views(CentralView((12, 16), (16, 16)), Decoding(), all_rows(16))}),
    "resize": (None, {"views": Views(CentralView((16, 16), (20, 20)), Decoding(), all_rows(16))}),
    "kind": (None, {"kind": "mean"}),
    "heads": (changed_heads, {}),
    "blocks": (None, {"blocks": 2}),
}


@pytest.mark.parametrize(("change", "options"), CHANGES.values(), ids=CHANGES)
def test_what_determines_them_makes_them_anew(kept, loaded, extractions, change, options):
    folder, cached, before = kept
    after = features(cached, change(loaded) if change else loaded, folder, **options)
    assert len(extractions) == 1
    assert before.values.shape != after.values.shape or np.any(before.values != after.values)


def test_so_does_another_version_of_the_code(kept, loaded, extractions, monkeypatch):
    folder, cached, _ = kept
    monkeypatch.setattr(caches, "VERSION", caches.VERSION + 1)
    features(cached, loaded, folder)
    assert len(extractions) == 1


def test_whatever_cuts_an_image_belongs_to_the_key():
    """Every field of `Views` but those that only say how fast images come."""
    cut = VIEWS.cut()
    speed = {"rows", "workers"}
    assert cut.keys() == {field.name for field in dataclasses.fields(Views)} - speed
    assert (cut["view"], cut["decoding"]["channels"]) == (VIEWS.view.to_json(), 3)


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
    np.testing.assert_array_equal(found.places, [*range(5), *range(6, 15)])
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
    (features_of,) = (tmp_path / "cache").iterdir()
    damages = {
        "features.f32": [b"short", b"", bytes(4 * 16 * 16)],
        "about.json": [b"[]", b"{", b"\xff", b'{"shape": 3}', b'{"shape": [1e400, "x"]}'],
        "labels.npy": [b"", b"no array", (features_of / "features.f32").read_bytes()],
        "rows.npy": [None],
    }
    for name, contents in damages.items():
        whole = (features_of / name).read_bytes()
        for content in contents:
            (features_of / name).unlink()
            if content is not None:
                (features_of / name).write_bytes(content)
            with pytest.raises(UserError, match=r"is damaged .*; remove it"):
                features(tmp_path, loaded, folder, kind="pixels")
        (features_of / name).write_bytes(whole)
    assert len(features(tmp_path, loaded, folder, kind="pixels").values) == 15


def test_the_folder_is_local(tmp_path, loaded):
    with pytest.raises(UserError, match="must be a local folder"):
        FeatureCache("gs://bucket/cache", *loaded, make_mesh())


def pictures(folder):
    """Writes pictures of every kind that is decoded in a way of its own, made of waves."""
    y, x = np.mgrid[:90, :120]
    waves = np.stack([np.sin(x / 7 + c) * np.cos(y / (5 + c)) for c in range(4)], axis=-1)
    rgba = np.round(127.5 + 127.5 * waves).astype(np.uint8)
    (folder / "a").mkdir(parents=True)
    Image.fromarray(rgba[..., :3]).save(folder / "a/0.png")
    Image.fromarray(rgba[..., :3]).save(folder / "a/1.jpg", quality=95)
    Image.fromarray(rgba[..., 0]).save(folder / "a/2.png")
    Image.fromarray(rgba).save(folder / "a/3.png")
    palette = Image.fromarray(rgba[..., 0] // 32).convert("P")
    palette.putpalette(rgba[0, :8, :3].tobytes())
    palette.save(folder / "a/4.png")
    Image.fromarray(rgba[::3, ::6, :3]).save(folder / "a/5.png")  # 30 high, 20 wide
    return folder


# Of each picture an entry of the class token and two of the patch tokens' mean, and three pixels
# as the model sees them.
# Recorded with version 1 on CPU, jax 0.10.2, Pillow 13.0.
RECORDED = {
    "cls+mean": [
        [-0.033, -0.139, -0.207],
        [-0.031, -0.133, -0.222],
        [-0.033, -0.636, -0.918],
        [-0.033, -0.139, -0.207],
        [0.001, -0.760, -1.368],
        [-0.045, -0.375, -0.713],
    ],
    "pixels": [
        [1.769, 0.153, -0.619],
        [1.735, 0.153, -0.602],
        [1.769, 0.695, 0.444],
        [1.769, 0.153, -0.619],
        [1.838, 2.411, 1.734],
        [-0.217, 0.310, 1.385],
    ],
}


@pytest.mark.parametrize("kind", RECORDED)
def test_a_recorded_feature_still_is_what_it_was(tmp_path, loaded, kind):
    """Where it no longer is, raise `cache.VERSION` and record it anew.

    Else features that an earlier version has kept would be taken for those of this one.
    """
    model, params = loaded
    shapes, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    fixed = [(3 * rng.random(x.shape) - 1.5).astype(np.float32) for x in shapes]
    folder = pictures(tmp_path / "pictures")
    found = features(tmp_path, (model, treedef.unflatten(fixed)), folder, kind=kind).values
    shown = found[:, [1, 20, 30] if kind == "cls+mean" else [0, 400, 767]]
    assert caches.VERSION == 1
    np.testing.assert_allclose(shown, RECORDED[kind], atol=5e-3)
