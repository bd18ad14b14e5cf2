"""Which accelerator there is, as far as kernels are concerned."""

import jax
from jax.sharding import Mesh

from ibot_jax.kernels.tpu.cores import Cores, cores_of


def has_cudnn_attention() -> bool:
    """Returns whether cuDNN's fused attention runs here: on NVIDIA GPUs from Ampere on."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "0.0")
    return jax.default_backend() == "gpu" and float(capability) >= 8


def tpu_cores(mesh: Mesh) -> Cores | None:
    """Returns the cores of each chip where the mesh is of TPUs, else None."""
    device = mesh.devices.flat[0]
    return cores_of(device.device_kind) if device.platform == "tpu" else None
