"""Folders of ImageNet-A, -C and -9, and whose classes theirs are."""

import json

import numpy as np
import pytest

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import imagenet_variants
from ibot_jax.evaluate.benchmarks.corruptions import ALEXNET_ERRORS

TRAIN = ["n01", "n02", "n03", "n04"]


def make(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "a.jpg").touch()


def test_imagenet_a_lists_some_of_the_classes(tmp_path):
    make(tmp_path, "n02", "n04")
    variant = imagenet_variants.open_by_name(str(tmp_path), "--imagenet-a", TRAIN)
    np.testing.assert_array_equal(variant.translation, [-1, 0, -1, 1])
    assert len(variant.source) == 2
    (tmp_path / "n02/b.jpg").touch()
    sources = [
        imagenet_variants.open_by_name(str(tmp_path), "--imagenet-a", TRAIN, most).source
        for most in (0, 1)
    ]
    assert list(map(len, sources)) == [3, 2]
    make(tmp_path, "n05")
    with pytest.raises(UserError, match="has the class n05, which the training split lacks"):
        imagenet_variants.open_by_name(str(tmp_path), "--imagenet-a", TRAIN)


def test_imagenet_v2_has_the_numbers_of_the_classes(tmp_path):
    make(tmp_path, "0", "2", "10")
    variant = imagenet_variants.open_imagenet_v2(str(tmp_path), 11)
    assert variant.source.class_names == ["0", "10", "2"]
    np.testing.assert_array_equal(np.flatnonzero(variant.translation >= 0), [0, 2, 10])
    np.testing.assert_array_equal(variant.translation[[0, 2, 10]], [0, 2, 1])
    with pytest.raises(UserError, match="has the class 10; they are numbers from 0 to 9"):
        imagenet_variants.open_imagenet_v2(str(tmp_path), 10)


def test_imagenet_c_has_all_corruptions_and_severities(tmp_path):
    make(tmp_path, *(f"{name}/{level}/n03" for name in ALEXNET_ERRORS for level in range(1, 6)))
    found = imagenet_variants.find_imagenet_c(str(tmp_path))
    assert found == {
        name: [f"{tmp_path}/{name}/{level}" for level in range(1, 6)] for name in ALEXNET_ERRORS
    }
    (tmp_path / "fog/4").rename(tmp_path / "fog/6")
    with pytest.raises(UserError, match="lacks fog/4; mCE needs all of gaussian_noise"):
        imagenet_variants.find_imagenet_c(str(tmp_path))


def test_imagenet_9_goes_by_the_benchmarks_map(tmp_path):
    names = ("mixed_rand", "mixed_same", "only_fg")
    make(tmp_path, *(f"{name}/val/{label}" for name in names for label in ("00_dog", "01_bird")))
    (tmp_path / "readme").mkdir()
    with pytest.raises(UserError, match=r"give the benchmark's in_to_in9\.json by --in9-map"):
        imagenet_variants.open_imagenet_9(str(tmp_path), TRAIN, None)
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"0": -1, "1": 1, "2": 0, "3": 1}))
    found = imagenet_variants.open_imagenet_9(str(tmp_path), TRAIN, str(file))
    assert tuple(found) == names
    for variant in found.values():
        np.testing.assert_array_equal(variant.translation, [-1, 1, 0, 1])
    own = imagenet_variants.open_imagenet_9(str(tmp_path), ["00_dog", "01_bird"], None)
    np.testing.assert_array_equal(own["only_fg"].translation, [0, 1])
    for content, message in (
        ('{"0": 1, "1": 0}', "maps 2 classes to 2; the training split has 4"),
        ('{"0": 1, "1": 0, "2": 0, "3": 2}', "maps 4 classes to 3; .* has 2"),
        ("[]", r"is no map \{"),
        ('{"1": 0}', r"is no map \{"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            imagenet_variants.open_imagenet_9(str(tmp_path), TRAIN, str(file))


def test_the_gap_is_between_the_two_kinds_of_mixed_backgrounds(tmp_path):
    top1 = {"original": 95.0, "mixed_same": 81.5, "mixed_rand": 72.25}
    assert imagenet_variants.background_gap(top1) == 9.25
    make(tmp_path, "mixed_same/val/00_dog")
    with pytest.raises(UserError, match="lacks mixed_rand/val; the gap needs both"):
        imagenet_variants.open_imagenet_9(str(tmp_path), TRAIN, None)


def test_images_without_class_folders_are_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"--imagenet-a: .* holds images without a folder for each"):
        imagenet_variants.open_by_name(str(tmp_path), "--imagenet-a", TRAIN)
    with pytest.raises(UserError, match=r"--imagenet-a: .*nowhere.* is no folder"):
        imagenet_variants.open_by_name(str(tmp_path / "nowhere"), "--imagenet-a", TRAIN)
