"""The shape of a backbone: grids of images, whole cells, and no need of JAX."""

import subprocess
import sys

import pytest

from ibot_jax.config import get_config
from ibot_jax.models.architectures import geometry_of
from ibot_jax.models.geometry import Geometry

PYRAMID = Geometry(4, 32, widths=(96, 192, 384, 768), depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))


def test_of_a_vit():
    geometry = geometry_of(get_config().model)
    assert geometry == Geometry(16, 16, widths=(384,), depths=(12,), heads=(6,), hidden=(1536,))
    assert (geometry.width, geometry.depth) == (384, 12)
    assert geometry.grid((224, 250)) == (14, 15)
    assert geometry.whole((224, 250)) == (224, 240)
    assert geometry.missing((224, 250)) == (0, 6)


def test_of_stages():
    assert (PYRAMID.width, PYRAMID.depth) == (768, 12)
    assert PYRAMID.whole((225, 96)) == (224, 96)


@pytest.mark.parametrize(("side", "rows"), [(224, 7), (96, 3), (72, 3), (64, 2), (67, 2), (3, 0)])
def test_patches_that_do_not_fill_a_cell_are_padded(side, rows):
    # 72 pixels are 18 patches, which merge to 9, 5, and 3.
    assert PYRAMID.grid((side, 224)) == (rows, 7)


def test_needs_no_jax():
    code = "import sys, ibot_jax.models.geometry; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
