"""Whether the TPU compiler is here, for tests that need it."""

import importlib.util

import pytest

IS_HERE = importlib.util.find_spec("libtpu") is not None
needed = pytest.mark.skipif(not IS_HERE, reason="the TPU compiler is not installed")
