"""Layouts of segmentation: which files belong together, and what their values mean."""

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scenes import write_voc

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.segmentation_data import IGNORED, LAYOUTS, Split, find_splits


def write(root, name, pixels):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return epath.Path(path)


def write_ade20k(root):
    for part in ("training", "validation"):
        write(root, f"images/{part}/ADE_1.jpg", np.zeros((2, 3, 3)))
        write(root, f"annotations/{part}/ADE_1.png", [[0, 1, 150], [2, 3, 4]])


def write_cityscapes(root):
    for part, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        for number in range(2):
            name = f"{city}_00000{number}_000019"
            pixels = np.zeros((2, 3, 3))
            write(root, f"leftImg8bit/{part}/{city}/{name}_leftImg8bit.png", pixels)
            values = [[7, 8, 33], [0, 24, number]]
            write(root, f"gtFine/{part}/{city}/{name}_gtFine_labelIds.png", values)


def test_the_layout_of_ade20k(tmp_path):
    """Value 0 is no class, 1 is class 0, and 150 the last one."""
    write_ade20k(tmp_path)
    splits = find_splits("ade20k", epath.Path(tmp_path))
    assert [split.images[0].parent.name for split in splits] == ["training", "validation"]
    for split in splits:
        assert split.num_classes == 150
        np.testing.assert_array_equal(split.read_truth(0), [[255, 0, 149], [1, 2, 3]])


def test_the_layout_of_cityscapes(tmp_path):
    """Of 34 values 19 are classes: road, sidewalk, ... person (24), ... bicycle (33)."""
    write_cityscapes(tmp_path)
    train, test = find_splits("cityscapes", epath.Path(tmp_path))
    assert (len(train), len(test), train.num_classes) == (4, 2, 19)
    for image, annotation in zip(train.images, train.annotations, strict=True):
        assert image.name.split("_leftImg8bit")[0] == annotation.name.split("_gtFine")[0]
    np.testing.assert_array_equal(train.read_truth(0), [[0, 1, 18], [255, 11, 255]])


def test_the_augmented_training_images_of_voc(tmp_path):
    """Lists are of names or, as some have them, of paths; what is tested stays."""
    root = write_voc(tmp_path / "VOC2012")
    names = [path.stem for path in sorted((root / "JPEGImages").glob("*train*"))]
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names[:3]]
    (root / "ImageSets/Segmentation/train_aug.txt").write_text("\n".join([*lines, names[4]]))
    for name in names:
        write(root, f"SegmentationClassAug/{name}.png", np.full((32, 48), 20))
    train, test = find_splits("voc-aug", epath.Path(root))
    assert [path.stem for path in train.images] == [*names[:3], names[4]]
    assert (train.read_truth(0) == 20).all()
    assert test.annotations == find_splits("voc", epath.Path(root))[1].annotations


@pytest.mark.parametrize(
    ("layout", "value", "classes"),
    [("voc", 21, "21 classes from 0 to 20"), ("ade20k", 151, "150 classes from 1 to 150")],
)
def test_values_that_are_no_class_are_named(tmp_path, layout, value, classes):
    path = write(tmp_path, "a.png", [[value, 3]])
    with pytest.raises(UserError, match=rf"a\.png holds the value {value}, .* the {classes}"):
        Split([path], [path], LAYOUTS[layout]).read_truth(0)


def test_no_value_is_a_class_and_void_at_once():
    for layout in LAYOUTS.values():
        assert not set(layout.classes) & set(layout.void)
        assert (layout.labels == IGNORED).sum() == len(layout.void)
        assert sorted(layout.labels[list(layout.classes)]) == list(range(len(layout.classes)))


@pytest.mark.parametrize(
    ("layout", "page"),
    [
        ("ade20k", "sceneparsing.csail.mit.edu"),
        ("voc", "host.robots.ox.ac.uk/pascal/VOC/voc2012"),
        ("voc-aug", "home.bharathh.info/pubs/codes/SBD"),
        ("cityscapes", "www.cityscapes-dataset.com"),
    ],
)
def test_a_wrong_layout_says_which_files_are_expected_and_where_they_are_to_be_had(
    tmp_path, layout, page
):
    with pytest.raises(UserError) as caught:
        find_splits(layout, epath.Path(tmp_path))
    assert f"--layout={layout} is of " in str(caught.value) and page in str(caught.value)


def test_images_without_labels_are_told(tmp_path):
    write_cityscapes(tmp_path)
    next((tmp_path / "gtFine/val/lindau").iterdir()).unlink()
    with pytest.raises(UserError, match=r"gtFine_labelIds.png is absent, one of 1 that .*lindau"):
        find_splits("cityscapes", epath.Path(tmp_path))
