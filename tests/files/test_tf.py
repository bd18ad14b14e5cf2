"""TensorFlow's door: what an import takes along, and what it leaves as it was."""

import subprocess
import sys

import cli
import pytest

CODE = """
import os, sys
{before}
from ibot_jax.files.tf import import_tensorflow
import_tensorflow()
print(os.environ.get("TF_USE_LEGACY_KERAS"), sorted({{"keras", "sklearn"}} & set(sys.modules)))
import tensorflow
print(tensorflow.keras.layers.Dense(3)(tensorflow.zeros((2, 5))).shape)
"""


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ("os.environ.pop('TF_USE_LEGACY_KERAS', None)", "None []"),
        ("os.environ['TF_USE_LEGACY_KERAS'] = '0'", "0 ['keras', 'sklearn']"),  # as is asked for
    ],
)
def test_keras_is_not_imported_before_it_is_used(before, left):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before)],
        cwd=cli.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [left, "(2, 3)"], done.stderr
