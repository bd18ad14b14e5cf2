"""How many FLOPs a second a device can do, by which a step's utilisation is judged."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from ibot_jax.parallel.layouts import batch_sharding

# Dense bfloat16 products, FLOPs a second, from the makers' data sheets (NVIDIA's state twice as
# much, for sparse ones), by the exact name that JAX gives the device: variants of a chip differ.
BFLOAT16_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e, Trillium
    "TPU v6e": 918e12,
}
_REPEATS = 10


@dataclasses.dataclass(frozen=True)
class Peak:
    """What one device can do at most.

    Attributes:
      flops_per_second: of that device.
      name: where the number is from.
    """

    flops_per_second: float
    name: str


def device_peak(mesh: jax.sharding.Mesh, dtype: jnp.dtype) -> Peak:
    """Returns the peak of the mesh's devices: by data sheet where there is one, else measured.

    Args:
      mesh: of devices of one kind.
      dtype: of the products' inputs; data sheets are listed for bfloat16.
    """
    device = mesh.devices.flat[0]
    if dtype == jnp.bfloat16 and device.device_kind in BFLOAT16_PEAKS:
        peak = BFLOAT16_PEAKS[device.device_kind]
        return Peak(peak, f"data sheet of {device.device_kind}, dense bfloat16")
    side = 1024 if device.platform == "cpu" else 8192  # large enough to keep all units busy
    name = f"measured matrix product, {side} x {side}, {dtype.name}"
    return Peak(_measure(mesh, dtype, side), name)


def _measure(mesh: jax.sharding.Mesh, dtype: jnp.dtype, side: int) -> float:
    """Times a square matrix product on all devices at once; returns FLOPs a second of each.

    At once because virtual devices share the cores of one machine. The best of several: whatever
    else runs there only slows it down.
    """
    # The step's precision, see `make_train_step`.
    precision = "default" if dtype == jnp.bfloat16 else "highest"
    layout = batch_sharding(mesh)

    @jax.jit
    def product(x):
        return jnp.matmul(x, x, precision=precision)

    x = jax.device_put(jnp.ones((mesh.size, side, side), dtype), layout)
    product(x).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
