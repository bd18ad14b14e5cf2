"""Folders of images as people have them: splits or classes, and what is left out, with a word."""

import os
import pathlib
import threading

import pytest
from PIL import Image

from ibot_jax.data.sources.folders import FolderSource, splits_for_testing
from ibot_jax.data.sources.listing import Folder
from ibot_jax.data.sources.splits import for_testing
from ibot_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A function that writes images of these names under a folder, which it returns."""

    def write(*names):
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(path)
        return tmp_path / "images"

    return write


def names(source):
    return [source.relative_name(index) for index in range(len(source))]


def labels(source):
    """Returns {image: class}."""
    return {
        name: source.class_names[label]
        for name, label in zip(names(source), source.labels, strict=True)
    }


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Val"), ("TRAINING", "validation"), ("train2017", "val2017")],
)
def test_folders_that_are_all_called_so_are_splits(folder, train, test):
    root = folder(f"{train}/a/0.png", f"{train}/b/1.png", f"{test}/a/2.png", f"{test}/b/3.png")
    (root / "annotations").mkdir()
    (root / "annotations/boxes.json").write_text("{}")
    assert labels(FolderSource(str(root), "train")) == {"a/0.png": "a", "b/1.png": "b"}
    assert splits_for_testing(str(root)) == [test]
    assert names(FolderSource(str(root), test.upper())) == ["a/2.png", "b/3.png"]


def test_of_several_splits_to_test_on_the_likeliest_comes_first(folder):
    root = folder("train/0.png", "validation/1.png", "dev/2.png", "Test/3.png", "extra/4.png")
    assert splits_for_testing(str(root)) == ["Test", "validation", "dev"]


@pytest.mark.parametrize("name", ["train", "Train", "test", "val"])
def test_among_other_classes_a_class_of_that_name_is_a_class(folder, name, caplog):
    root = folder(f"{name}/0.png", f"{name}/1.png", "bus/2.png", "car/3.png")
    source = FolderSource(str(root), "train")
    assert labels(source) == {
        "bus/2.png": "bus",
        "car/3.png": "car",
        f"{name}/0.png": name,
        f"{name}/1.png": name,
    }
    assert splits_for_testing(str(root)) == []
    assert f"{name} taken for a class" in caplog.text


def test_without_a_part_to_train_on_there_are_no_splits(folder):
    root = folder("test/0.png", "val/1.png")
    assert FolderSource(str(root), "train").class_names == ["test", "val"]


def test_two_parts_to_train_on_are_a_mistake(folder):
    root = folder("train/0.png", "Training/1.png", "test/2.png")
    with pytest.raises(UserError, match="several parts to train on, Training, train; give one"):
        FolderSource(str(root), "train")
    assert names(FolderSource(str(root), "Training")) == ["1.png"]


def test_a_few_images_beside_class_folders_are_left_out_by_name(folder, caplog):
    root = folder("cover.jpg", *(f"{label}/{n}.png" for label in "ab" for n in range(3)))
    source = FolderSource(str(root), "train")
    assert source.class_names == ["a", "b"] and len(source) == 6
    assert caplog.messages == [f"folder:{root}: left out cover.jpg (beside the class folders)"]


def test_as_many_images_as_in_a_class_make_an_album(folder, caplog):
    root = folder("0.png", "1.png", "trip/2.png", "home/3.png", "home/deep/4.png")
    source = FolderSource(str(root), "train")
    assert names(source) == ["0.png", "1.png", "home/3.png", "home/deep/4.png", "trip/2.png"]
    assert source.labels is source.class_names is None
    assert "taken without labels: 2 images, such as 0.png" in caplog.text


def test_who_wants_no_labels_gets_every_image(folder, caplog):
    root = folder("cover.jpg", "a/0.png", "a/1.png", "train/2.png")
    source = FolderSource(str(root), "", labelled=False)
    assert names(source) == ["cover.jpg", "a/0.png", "a/1.png", "train/2.png"]
    assert source.labels is None and not caplog.messages


def test_images_beside_splits_and_empty_classes_are_left_out_by_name(folder, caplog):
    root = folder("x.jpg", "train/a/0.png", "train/c/1.png", "test/a/2.png", "test/c/3.png")
    (root / "train/b").mkdir()
    source = FolderSource(str(root), "train")
    assert labels(source) == {"a/0.png": "a", "c/1.png": "c"}
    assert caplog.messages == [
        f"folder:{root}: left out x.jpg (beside the splits); train/b (no images in it)"
    ]


def test_what_systems_leave_behind_is_no_class(folder, caplog):
    root = folder("a/0.png", "b/1.png", "__MACOSX/a/._0.png", ".cache/2.png", "@eaDir/3.png")
    source = FolderSource(str(root), "train")
    assert source.class_names == ["a", "b"] and not caplog.messages


def test_links_are_followed_but_not_back_and_not_to_nowhere(folder, tmp_path, caplog):
    root = folder("a/0.png", "b/1.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("L", (2, 2)).save(elsewhere / "2.png")
    (root / "c").symlink_to(elsewhere)
    (root / "b/back").symlink_to(root)
    (root / "b/above").symlink_to(tmp_path)
    (root / "a/round").symlink_to(root / "a/round")
    (root / "d").symlink_to(tmp_path / "nowhere")
    (root / "a/lost.png").symlink_to("nowhere.png")  # counted when it is read
    source = FolderSource(str(root), "train")
    assert names(source) == ["a/0.png", "a/lost.png", "b/1.png", "c/2.png"]
    (message,) = caplog.messages
    assert "d, a/round (a link to nowhere)" in message
    assert "b/above" in message and "b/back" in message
    assert message.count("a link back") == 1


def test_two_links_into_each_other_end(folder):
    root = folder("a/0.png", "b/1.png")
    (root / "a/to_b").symlink_to(root / "b")
    (root / "b/to_a").symlink_to(root / "a")
    assert names(FolderSource(str(root), "train")) == [
        "a/0.png",
        "a/to_b/1.png",
        "b/1.png",
        "b/to_a/0.png",
    ]


def test_a_message_stays_short(folder, caplog):
    root = folder("a/0.png", "b/0.png")
    for index in range(1000):
        (root / f"empty{index:04}").mkdir()
    FolderSource(str(root), "train")
    expected = "left out empty0000, empty0001, empty0002 and 997 more (no images in it)"
    assert caplog.messages == [f"folder:{root}: {expected}"]


def test_a_folder_that_nobody_may_list_is_a_mistake(folder, monkeypatch):
    root = folder("a/0.png", "b/0.png")
    scandir = os.scandir

    def refuse(path):
        if pathlib.Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"^{root}/b cannot be listed \(Permission denied\)"):
        FolderSource(str(root), "train")


def test_of_tfds_the_split_for_validation_comes_first():
    """The labels of ImageNet's "test" are hidden."""
    first = ("val", "validation", "valid")
    assert for_testing(["test", "train", "validation"], first) == ["validation", "test"]


def test_names_that_are_no_utf8_are_names(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    for name in (b"\xff", b"b"):
        os.makedirs(folder + b"/" + name)
        with open(folder + b"/" + name + b"/\xfe.png", "wb") as file:
            file.write(name)
    source = FolderSource(os.fsdecode(folder), "train")
    assert [source.fetch(source.locate(index)[0]) for index in range(2)] == [b"b", b"\xff"]
    assert os.fsencode(source.relative_name(1)) == b"\xff/\xfe.png"
    assert os.fsencode(source.class_names[1]) == b"\xff"


def test_folders_are_listed_several_at_a_time(folder, monkeypatch, caplog):
    """Here four wait for each other; order, labels and what is left out are as ever."""
    expected = [f"{name}/{number}.png" for name in "abcd" for number in range(2)]
    root = folder(*expected)
    for name in "bd":
        (root / name / "gone").symlink_to(root / "nowhere")
    together, walk = threading.Barrier(4, timeout=30), Folder.walk

    def walk_together(self, left_out):
        together.wait()
        return walk(self, left_out)

    monkeypatch.setattr(Folder, "walk", walk_together)
    source = FolderSource(str(root), "train")
    assert names(source) == expected and source.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert "left out b/gone, d/gone (a link to nowhere)" in caplog.text


def test_arrays_count_where_there_are_no_pictures(make_folder):
    root = make_folder("a", "b", count=2)
    for name in ("a/1.npy", "b/2.NPZ", "b/3.dcm", "4.txt"):
        (root / name).write_bytes(b"numbers")
    found = FolderSource(str(root), "train")
    assert [found.relative_name(index) for index in range(len(found))] == [
        *("a/000.png", "a/001.png", "b/000.png", "b/001.png")
    ]
    for path in root.rglob("*.png"):
        path.unlink()
    found = FolderSource(str(root), "train")
    names = [found.relative_name(index) for index in range(len(found))]
    assert names == ["a/1.npy", "b/2.NPZ", "b/3.dcm"]
    assert found.class_names == ["a", "b"] and found.labels.tolist() == [0, 1, 1]


def test_splits_of_arrays_are_found(tmp_path):
    for name in ("train/x/1.npy", "val/x/2.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"numbers")
    assert splits_for_testing(str(tmp_path)) == ["val"]
    assert len(FolderSource(str(tmp_path), "train")) == 1
