"""ObjectNet: which folders are which classes of ImageNet, and what of its images counts."""

import numpy as np
import pytest
from objectnet import write_objectnet

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.pixels.images import EncodedImage
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.objectnet import open_objectnet


@pytest.fixture
def root(tmp_path):
    return write_objectnet(tmp_path / "objectnet-1.0")


def test_folders_are_the_classes_that_its_mappings_say(root):
    """Analog and digital clock are one object; what is no class of ImageNet is left out."""
    variant = open_objectnet(str(root), 3)
    folders = ["air_freshener", "alarm_clock", "wheel"]
    assert variant.source.class_names == folders
    assert [folders[place] for place in variant.translation] == [
        "alarm_clock",
        "alarm_clock",
        "wheel",
    ]
    np.testing.assert_array_equal(variant.source.labels, [1, 1, 2, 2])


def test_the_border_is_cut_off(root):
    source = open_objectnet(str(root), 3).source
    path, label = source.locate(3)
    pixels = EncodedImage(source.fetch(path), Decoding()).decode()
    assert label == 2 and pixels.shape == (16, 20, 3)
    assert (pixels == (221, 41, 41)).all()


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        (lambda root: (root / "mappings/imagenet_to_label_2012_v2").unlink(), 3, "lacks "),
        (lambda root: None, 4, "are not those of 4 classes"),
        (lambda root: (root / "images/mug").mkdir() or save(root / "images/mug/1.png"), 3, "'mug'"),
    ],
)
def test_what_is_absent_or_odd_is_told_with_the_page(root, change, classes, message):
    change(root)
    with pytest.raises(UserError, match="objectnet.dev") as caught:
        open_objectnet(str(root), classes)
    assert message in str(caught.value)


def save(path):
    path.write_bytes((path.parents[1] / "wheel/0.png").read_bytes())
