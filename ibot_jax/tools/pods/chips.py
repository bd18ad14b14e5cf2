"""What a TPU chip can do, by its data sheet, and what of its memory a program gets."""

import dataclasses

from ibot_jax.kernels.tpu.cores import cores_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, by Google's documentation and, for its memory, the compiler's word.

    Attributes:
      clock: cycles a second.
      peak: dense bfloat16 FLOPs a second.
      memory: bytes of HBM that the compiler hands out, to a hundredth of a GiB.
      bandwidth: of HBM, bytes a second.
      link: bytes a second between chips, all links together.
      cores: that act as one device and share the grid of a kernel.
    """

    clock: float
    peak: float
    memory: float
    bandwidth: float
    link: float
    cores: int


CHIPS = {  # by the name that JAX gives the device
    kind: Chip(*figures, cores=cores_of(kind).count)
    for kind, figures in {
        "TPU v4": (1.05e9, 275e12, 30.75 * 2**30, 1228e9, 300e9),
        "TPU v5 lite": (1.5e9, 197e12, 15.75 * 2**30, 819e9, 200e9),
        "TPU v5": (1.75e9, 459e12, 95.73 * 2**30, 2765e9, 600e9),
        "TPU v6 lite": (1.75e9, 918e12, 31.24 * 2**30, 1640e9, 448e9),
    }.items()
}
