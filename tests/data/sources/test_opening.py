"""Sources: where images are found, which formats are read, and what a user's mistake looks like."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.data.sources.opening import Subset, open_source
from ibot_jax.errors import UserError
from ibot_jax.files import remote

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


def read(source, index, channels=3):
    return EncodedImage(source.fetch(source.locate(index)[0]), Decoding(channels)).decode()


def read_one(folder, channels=3):
    return read(open_source(f"folder:{folder}", "train"), 0, channels)


def names(source):
    return [Path(source.describe(index)).stem for index in range(len(source))]


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [
        ("rgb.png", RGB, RGB),
        ("grey.png", GREY, np.stack([GREY] * 3, axis=-1)),
        ("sixteen.png", GREY.astype(np.uint16) * 256 + 77, np.stack([GREY] * 3, axis=-1)),
        ("lossless.webp", RGB, RGB),
        ("alpha.png", np.dstack([RGB, GREY]), RGB),
        ("UPPER.PNG", RGB, RGB),
        ("bitmap.bmp", RGB, RGB),
        ("tagged.tiff", RGB, RGB),
    ],
)
def test_lossless_formats_become_rgb(tmp_path, name, pixels, expected):
    options = {"lossless": True} if name.endswith("webp") else {}
    save(tmp_path / name, pixels, **options)
    np.testing.assert_array_equal(read_one(tmp_path), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_becomes_rgb(tmp_path, mode):
    flat = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    save(tmp_path / "image.jpg", flat, mode, quality=100)
    expected = np.asarray(Image.fromarray(flat).convert(mode).convert("RGB"))
    np.testing.assert_allclose(read_one(tmp_path), expected.astype(int), atol=4)


def test_a_palette_with_transparency_becomes_rgb(tmp_path, recwarn):
    palette = Image.fromarray(RGB).quantize(256)
    palette.save(tmp_path / "image.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(read_one(tmp_path), np.asarray(palette.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize(("channels", "shape"), [(1, (6, 5)), (2, (6, 5, 2)), (4, (6, 5, 4))])
def test_other_channel_counts(tmp_path, channels, shape):
    save(tmp_path / "image.png", RGB)
    found = read_one(tmp_path, channels)
    assert found.shape == shape
    if channels == 4:
        np.testing.assert_array_equal(found[..., :3], RGB)
    if channels != 1:
        assert (found[..., -1] == 255).all()  # opaque
    if channels <= 2:
        grey = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
        np.testing.assert_allclose(found.reshape(6, 5, -1)[..., 0], grey, atol=1)


def test_exif_orientation_is_left_alone_as_in_the_original(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save(tmp_path / "image.png", RGB, exif=exif)
    np.testing.assert_array_equal(read_one(tmp_path), RGB)


def test_class_folders_are_labelled_by_the_first_level(make_folder):
    root = make_folder("train/b/deep/er", "train/a", "train/empty/too", count=3)
    for name in ("train/empty/too/000.png", "train/empty/too/001.png", "train/empty/too/002.png"):
        (root / name).unlink()
    (root / "train/a/notes.txt").write_text("no image")
    (root / "train/a/.hidden.png").write_text("no image")
    source = open_source(f"folder:{root}", "train")
    assert source.class_names == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.labels.dtype == np.int32
    assert source.describe(4) == f"{root}/train/b/deep/er/001.png"
    assert source.num_classes == 2
    assert source.locate(4) == (f"{root}/train/b/deep/er/001.png", 1)


def test_images_right_in_the_folder_make_it_unlabelled(make_folder):
    root = make_folder(".", "sub", count=2)
    source = open_source(f"folder:{root}", "train")
    assert len(source) == 4
    assert source.labels is source.class_names is source.num_classes is None
    assert source.locate(0)[1] == -1


def test_a_folder_without_splits_is_its_own_training_split(make_folder):
    root = make_folder("cat", "dog")
    assert len(open_source(f"folder:{root}", "train")) == 20
    assert len(open_source(f"folder:{root}", "cat")) == 10


def test_max_per_class_keeps_the_first_by_name(make_folder):
    source = open_source(f"folder:{make_folder('b', 'a')}", "train", max_per_class=3)
    assert names(source) == ["000", "001", "002"] * 2
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_part_of_a_source():
    whole = open_source("digits", "train")
    places = [index * len(whole) // 360 for index in range(360)]
    part = Subset(whole, places)
    assert len(part) == 360
    np.testing.assert_array_equal(part.labels, whole.labels[places])
    pixels, label = part.locate(359)
    np.testing.assert_array_equal(pixels, whole.locate(places[359])[0])
    assert (label, part.describe(359)) == (whole.labels[places[359]], whole.describe(places[359]))


def test_digits_are_those_of_scikit_learn():
    images, labels = load_digits(return_X_y=True)
    of_split = {"train": set(), "test": set()}
    for split, found in of_split.items():
        source = open_source("digits", split)
        for index in range(len(source)):
            pixels, label = source.locate(index)
            place = int(source.describe(index).removeprefix("digit "))
            assert label == source.labels[index] == labels[place]
            np.testing.assert_array_equal(pixels, np.round(images[place].reshape(8, 8) * 255 / 16))
            found.add(place)
    # Each fifth of a class is for testing, and none is in both.
    tested = {i for i in range(1797) if np.sum(labels[:i] == labels[i]) % 5 == 4}
    assert of_split == {"train": set(range(1797)) - tested, "test": tested}


def test_names_that_are_no_text_can_be_read(tmp_path):
    save(tmp_path / "plain.png", RGB)
    os.rename(os.fsencode(tmp_path / "plain.png"), os.fsencode(tmp_path) + b"/\xff\xe9.png")
    np.testing.assert_array_equal(read_one(tmp_path), RGB)


def test_folders_behind_a_url_are_those_of_a_disk(make_folder):
    root = make_folder("train/b/deep", "train/a", count=2)
    remote = open_source(f"folder:file://{root}", "train")
    local = open_source(f"folder:{root}", "train")
    assert remote.labels.tolist() == local.labels.tolist() == [0, 0, 1, 1]
    assert remote.describe(2) == f"file://{local.describe(2)}"
    np.testing.assert_array_equal(read(remote, 2), read(local, 2))


@pytest.fixture
def bucket(make_folder):
    """Returns the URL of a bucket in memory, with two classes and a placeholder of a folder."""
    store = fsspec.filesystem("memory")
    root = make_folder("b", "a", count=2)
    for path in root.rglob("*.png"):
        store.pipe_file(f"memory://bucket/{path.relative_to(root)}", path.read_bytes())
    yield "memory://bucket"
    store.rm("memory://bucket", recursive=True)


def test_object_stores_are_read_by_fsspec(bucket, make_folder):
    source = open_source(f"folder:{bucket}", "train")
    assert source.class_names == ["a", "b"]
    assert [source.describe(i) for i in (0, 3)] == [f"{bucket}/a/000.png", f"{bucket}/b/001.png"]
    local = open_source(f"folder:{make_folder('b', 'a', count=2)}", "train")
    np.testing.assert_array_equal(read(source, 3), read(local, 3))


def test_the_placeholder_of_a_folder_is_no_folder_in_it(monkeypatch, bucket):
    store = fsspec.filesystem("memory")
    listed = store.ls
    monkeypatch.setattr(
        type(store),
        "ls",
        lambda self, url, detail: [
            {"name": f"{url.removeprefix('memory:/')}/", "type": "directory"},
            *listed(url, detail),
        ],
    )
    assert open_source(f"folder:{bucket}", "train").class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("url", "error", "remedy"),
    [
        ("gs://b/x", ImportError("Please install gcsfs"), r"install gcsfs; pip .*ibot-jax\[gcs\]'"),
        ("s3://b/x", ImportError("Install s3fs"), r"Install s3fs; pip install 'ibot-jax\[s3\]'"),
        ("abfs://b/x", ImportError("Install adlfs"), "Install adlfs; install it, or copy"),
        ("gx://b/x", ValueError("Protocol not known: gx"), "Protocol not known: gx"),
        ("gs://b/x", PermissionError("denied"), "PermissionError: denied; check the address"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(monkeypatch, url, error, remedy):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    if isinstance(error, OSError):  # of the store, not of fsspec
        monkeypatch.setattr(fsspec, "filesystem", lambda scheme: SimpleNamespace(info=refuse))
    with pytest.raises(UserError, match=f"^{url} cannot be .*{remedy}"):
        open_source(f"folder:{url}", "train")


def test_a_store_that_does_not_answer_is_one_line(monkeypatch):
    silent = SimpleNamespace(info=lambda url: threading.Event().wait(60))
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: silent)
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"^s3://b/x cannot be listed: .*no answer within 0.1 s"):
        open_source("folder:s3://b/x", "train")


def test_a_million_paths_need_little_memory(monkeypatch, tmp_path):
    import tracemalloc

    from ibot_jax.data.sources.listing import Folder

    count = 200_000
    listing = [f"n01440764_{index:08d}.JPEG" for index in range(count)]
    monkeypatch.setattr(Folder, "list", lambda folder, left_out: (listing, []))
    tracemalloc.start()
    source = open_source(f"folder:{tmp_path}", "train")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.describe(123_456).endswith("n01440764_00123456.JPEG")
    assert held < 45 * count  # bytes; a list of str takes twice as much


def test_digits_are_split_by_class():
    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert len(train) + len(test) == 1797
    assert {train.describe(i) for i in range(len(train))}.isdisjoint(
        test.describe(i) for i in range(len(test))
    )
    share = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    assert read(train, 0).shape == (8, 8, 3)
    assert max(read(train, index).max() for index in range(20)) == 255
    assert np.bincount(open_source("digits", "train", max_per_class=7).labels).tolist() == [7] * 10


def test_synthetic_images_differ_and_repeat():
    source = open_source("synthetic:5", "train")
    images = [read(source, index) for index in range(5)]
    assert len(source) == 5
    assert images[0].shape == (375, 500, 3)
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], read(source, 0))
    assert len(open_source("synthetic", "train")) == 1_281_167


@pytest.mark.parametrize(
    ("spec", "split", "options", "parts"),
    [
        ("imagenet", "train", {}, ["data.source='imagenet'", "folder:PATH"]),
        ("", "train", {}, ["data.source=''", "digits"]),
        ("folder:", "train", {}, ["data.source='folder:'", "folder:PATH"]),
        ("synthetic:many", "train", {}, ["data.source='synthetic:many'", "NUMBER_OF_IMAGES"]),
        ("digits", "val", {}, ["split='val'", "train or test"]),
        ("synthetic", "train", {"max_per_class": 5}, ["max_per_class=5", "set it to 0"]),
        ("digits", "train", {"channels": 33}, ["data.channels=33", "1 to 32"]),
        ("folder:{root}/nowhere", "train", {}, ["{root}/nowhere", "no folder"]),
        ("folder:{root}/a/000.png", "train", {}, ["{root}/a/000.png", "no folder"]),
        ("folder:{root}", "val", {}, ["split='val'", "there are: a, b"]),
        ("folder:{root}/a", "val", {}, ["split='val'", 'only split="train"']),
        ("folder:{root}/a", "train", {"max_per_class": 5}, ["max_per_class=5", "class folders"]),
        ("folder:{empty}", "train", {}, ["{empty}", "no images", "webp"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(make_folder, tmp_path, spec, split, options, parts):
    root = make_folder("a", "b", count=1)
    (tmp_path / "empty").mkdir()
    paths = {"root": root, "empty": tmp_path / "empty"}
    with pytest.raises(UserError) as error:
        open_source(spec.format(**paths), split, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part.format(**paths) in message


def test_nothing_imports_tensorflow_before_a_pipeline_is_built(make_folder):
    code = (
        "import sys\n"
        "from ibot_jax.data import pipeline\n"
        "from ibot_jax.data.draw import masks, views\n"
        "from ibot_jax.data.make import chunks, examples, workers\n"
        "from ibot_jax.data.sources import opening\n"
        f"source = opening.open_source('folder:{make_folder('a')}', 'train')\n"
        "source.fetch(source.locate(0)[0])\n"
        "source.fetch('file://' + source.locate(0)[0])\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'jax', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
