"""What kernels know of a device, from what JAX says of it."""

import types

import jax
import pytest

from ibot_jax.kernels.choice import choose_at_hand
from ibot_jax.kernels.devices import device_at_hand


@pytest.mark.parametrize(
    ("told", "capability"),
    [
        ({"compute_capability": "9.0"}, 9.0),
        ({"compute_capability": "gfx90a"}, 0.0),  # by AMD
        ({}, 0.0),
    ],
    ids=["NVIDIA", "AMD", "unsaid"],
)
def test_a_compute_capability_is_a_number_where_it_is_one(told, capability, monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", device_kind="some GPU", **told)
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    assert device_at_hand().capability == capability
    assert choose_at_hand("auto").device.platform == "gpu"
