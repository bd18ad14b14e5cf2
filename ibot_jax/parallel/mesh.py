"""The devices as a mesh of three axes, any of them 1.

    data    examples are spread over it; each device has a copy of the state
    fsdp    examples are spread over it, too, and so is the state: parameters, moments and teacher
            are sharded, are gathered for a step, and gradients come back in the same shards
    tensor  heads, hidden units of MLPs, and prototypes are spread over it; examples are not

The gradients are formed under manual control of "data" and "fsdp" (`average_gradients`): a device
sees its own rows and whole parameters, so nothing of an activation crosses these axes, and each
gradient is reduced once. "tensor" is left to XLA's partitioner, which follows the layout of the
parameters, except in the losses, whose sums over prototypes are manual (`over_prototypes`).
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # over which examples are spread
TENSOR_AXIS = "tensor"


def make_mesh(
    devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1, tensor: int = 1
) -> Mesh:
    """Returns the mesh of these devices, or of all of all processes; "data" has what is left.

    Args:
      devices: a multiple of `fsdp * tensor`.
      fsdp: devices that share a state.
      tensor: devices that share heads, hidden units and prototypes.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = (len(devices) // (fsdp * tensor), fsdp, tensor)
    # Auto: XLA's partitioner propagates layouts from the step's inputs.
    types = (AxisType.Auto,) * len(shape)
    if tensor == 1 and len({getattr(device, "slice_index", 0) for device in devices}) == 1:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    # Slices talk over a slower network: only "data" crosses it. A process has whole tensor groups.
    devices.sort(key=lambda d: (getattr(d, "slice_index", 0), d.process_index, d.id))
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)
