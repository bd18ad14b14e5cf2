"""What Pallas kernels need to know of a TPU chip."""

import dataclasses

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores of a TPU chip, which act as one device and share the steps of a kernel.

    Attributes:
      count: of the chip.
      memory: vector memory of each, bytes.
    """

    count: int
    memory: int


_CORES = {  # by the name that JAX gives the device; the memory is what the compiler grants
    "TPU v4": Cores(2, 16 * _MIB),
    "TPU v5": Cores(2, 64 * _MIB),
    "TPU v5 lite": Cores(1, 128 * _MIB),
    "TPU v6 lite": Cores(1, 128 * _MIB),
}


def cores_of(device_kind: str) -> Cores:
    """Returns the cores of a chip by the name that JAX gives it; of one that is not known, v4's."""
    return _CORES.get(device_kind, _CORES["TPU v4"])
