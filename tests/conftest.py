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

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Frees what a file of tests compiled: gigabytes, in the end, that no other file needs."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def reference():
    """Returns a function from the name of a recorded file to its path; skips where it is absent."""
    folder = pathlib.Path(os.environ.get("IBOT_REFERENCE_DIR", ROOT / "../shared/reference"))

    def path(name: str) -> pathlib.Path:
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is absent")
        return folder / name

    return path


@pytest.fixture(scope="session")
def step_small():
    """Returns the path of the small recorded run that travels with the tests."""
    return ROOT / "tests/data/step_small.npz"
