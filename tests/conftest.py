"""Eight virtual devices and quick compilation for every test; where recorded data is found."""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def _folder(variable: str, default: str) -> pathlib.Path:
    return pathlib.Path(os.environ.get(variable, ROOT / default))


@pytest.fixture(scope="session")
def reference():
    """Returns the path of a recorded reference file, or skips the test."""
    folder = _folder("IBOT_REFERENCE_DIR", "../shared/reference")

    def path(name: str) -> pathlib.Path:
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is absent")
        return folder / name

    return path


@pytest.fixture(scope="session")
def real_images():
    """Returns the path of an archive of real images, or skips the test."""
    folder = _folder("IBOT_DATA_DIR", "../shared/data")

    def path(name: str) -> pathlib.Path:
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is absent")
        return folder / name

    return path


@pytest.fixture(scope="session")
def step_small():
    """Returns the path of the small recorded run that travels with the tests."""
    return ROOT / "tests/data/step_small.npz"
