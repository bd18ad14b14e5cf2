"""ReaL's labels: those of the number in an image's name."""

import json

import numpy as np
import pytest

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.real_labels import read_real


def test_labels_are_those_of_the_number(tmp_path):
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[2], [], [0, 1]]))
    names = [f"n01/ILSVRC2012_val_{number:08}.JPEG" for number in (3, 2)]
    found = read_real(str(file), names, 3)
    np.testing.assert_array_equal(found, [[True, True, False], [False, False, False]])


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("[[3]]", "ILSVRC2012_val_00000001.JPEG", "has the class 3; the training split has 3"),
        ("[[0]]", "ILSVRC2012_val_00000002.JPEG", "lists 1 images, of which "),
        ("[[0]]", "dog.jpg", "of which dog.jpg is none; the test split must be ImageNet's"),
        ("[0]", "ILSVRC2012_val_00000001.JPEG", "real.json is to be had at github.com/google"),
        ("?", "ILSVRC2012_val_00000001.JPEG", "is no list of the classes of each image"),
    ],
)
def test_mistakes_are_told(tmp_path, content, name, message):
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_real(str(tmp_path / "real.json"), [name], 3)
    assert message in str(caught.value)
