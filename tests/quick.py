"""What the tests ask of XLA: programs that are compiled quickly, for small shapes never notice."""

import importlib.metadata

_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
    # The older emitters take a third of the time; later versions have no others.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def flags(devices: int = 1) -> str:
    """Returns `XLA_FLAGS` for so many virtual devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *_FLAGS])
