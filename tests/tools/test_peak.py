"""The peak of a device: quoted where there is a data sheet, else measured."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.tools.peak import device_peak


@pytest.mark.parametrize(
    ("kind", "peak"), [("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v5 lite", 197e12)]
)
def test_a_data_sheet_is_quoted(kind, peak):
    device = types.SimpleNamespace(device_kind=kind, platform="any")
    found = device_peak(types.SimpleNamespace(devices=np.array([device])), jnp.dtype("bfloat16"))
    assert found.flops_per_second == peak
    assert kind in found.name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_a_data_sheet_a_product_is_timed(dtype):
    found = device_peak(make_mesh(jax.devices()[:2]), jnp.dtype(dtype))
    assert math.isfinite(found.flops_per_second) and found.flops_per_second > 0
    assert found.name == f"measured matrix product, 1024 x 1024, {dtype}"
