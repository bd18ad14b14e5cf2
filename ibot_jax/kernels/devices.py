"""Which accelerator there is, as far as kernels are concerned."""

import dataclasses

import jax
from jax.sharding import Mesh

from ibot_jax.parallel.mesh import TENSOR_AXIS


@dataclasses.dataclass(frozen=True)
class Device:
    """A device, and how a program lies on it.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      kind: the name that JAX gives it.
      capability: CUDA's compute capability of a GPU by NVIDIA, else 0.
      tensor: devices that heads, hidden units and prototypes are spread over.
      partitioned: whether XLA's partitioner may take the program apart: anywhere but within
        `parallel.gradients.average_gradients`, and there over `tensor`.
    """

    platform: str = "cpu"
    kind: str = ""
    capability: float = 0.0
    tensor: int = 1
    partitioned: bool = True


def device_of(mesh: Mesh) -> Device:
    """Returns the devices of a mesh, within `average_gradients`."""
    tensor = mesh.shape[TENSOR_AXIS]
    device = _describe(mesh.devices.flat[0])
    return dataclasses.replace(device, tensor=tensor, partitioned=False)


def device_at_hand() -> Device:
    """Returns the first device of this process, for a program that XLA may take apart."""
    return _describe(jax.local_devices()[0])


def _describe(device: jax.Device) -> Device:
    capability = getattr(device, "compute_capability", "")
    try:
        number = float(capability)
    except ValueError:  # such as "gfx90a"
        number = 0.0
    return Device(device.platform, device.device_kind, number)
