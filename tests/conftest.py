"""Eight virtual devices and quick compilation for every test; where recorded data is found."""

import atexit
import os
import pathlib
import signal
import tempfile

import quick

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick.flags(8)}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What tests and the processes that they start compile, they compile once.
    COMPILED = tempfile.TemporaryDirectory(prefix="ibot_jax_compiled_")
    atexit.register(COMPILED.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from slow_parts import pytest_addoption, pytest_collection_modifyitems  # noqa: F401 - hooks

# What starts the tests in the background, or under nohup, may have them ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config):
    """Hands files out in the order of their tests, not by their numbers of them."""
    config.option.loadscopereorder = False


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Frees what a file of tests compiled: gigabytes, in the end, that no other file needs."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def same_precision():
    """Gives back float32 to the next test, which a command in this process may set for good."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="session")
def reference():
    """Returns a function from the name of a recorded file to its path; skips where it is absent."""
    first = pathlib.Path(os.environ.get("IBOT_REFERENCE_DIR", ROOT / "../shared/reference"))
    folders = first, first.with_name("reference2")

    def path(name: str) -> pathlib.Path:
        found = [folder / name for folder in folders if (folder / name).exists()]
        if not found:
            pytest.skip(f"{name} is absent from {first}")
        return found[0]

    return path


@pytest.fixture(scope="session")
def swin_step_small():
    """Returns the path of the same of a Swin."""
    return ROOT / "tests/data/swin_step_small.npz"


@pytest.fixture(scope="session")
def step_small():
    """Returns the path of the small recorded run that travels with the tests."""
    return ROOT / "tests/data/step_small.npz"
