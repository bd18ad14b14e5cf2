"""Fixtures of the data tests: recorded reference data, and small folders of made images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_jax.config import get_config

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("IBOT_REFERENCE_DIR", ROOT / "../shared/reference"))


def _load_reference(name):
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"{path} is absent; IBOT_REFERENCE_DIR names its folder")
    return np.load(path)


@pytest.fixture(scope="session")
def view_ops():
    return _load_reference("view_ops.npz")


@pytest.fixture(scope="session")
def view_statistics():
    return _load_reference("view_statistics.npz")


@pytest.fixture
def config():
    """Views of 16 and 8 pixels in batches of 8, made by one worker."""
    config = get_config()
    config.batch_size = 8
    config.duration = "2 epochs"
    config.model.patch_size = 4
    config.data.update(
        global_size=(16, 16), local_size=(8, 8), local_views=2, workers=1, max_bad_share=0.0
    )
    return config


@pytest.fixture
def make_folder(tmp_path):
    """A function that writes noise images, `count` for each folder name, under tmp_path."""

    def make(*folders, count=10, size=(20, 24), suffix=".png"):
        rng = np.random.default_rng(0)
        for folder in folders:
            directory = tmp_path / "images" / folder
            directory.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{index:03d}{suffix}")
        return tmp_path / "images"

    return make
