"""Commands, one after the other, on a mesh that takes the devices of the processes in turn.

    python -m in_turn '[["ibot_jax.main", "--config=...", ...], ...]' [flags of all]

As the meshes of slices of TPUs do; a process alone has its devices in their order.
"""

import collections
import importlib
import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh


def make_mesh(shape, axes, *, axis_types, devices):
    """What jax.make_mesh returns where the slice is wired so."""
    of_process = collections.defaultdict(list)
    for device in devices:
        of_process[device.process_index].append(device)
    in_turn = [device for turn in zip(*of_process.values(), strict=True) for device in turn]
    return Mesh(np.reshape(in_turn, shape), axes, axis_types=axis_types)


def main(commands, *flags):
    """Runs the commands, up to the first that fails; returns its status."""
    jax.make_mesh = make_mesh
    for module, *arguments in json.loads(commands):
        command = importlib.import_module(module).main
        name = [module] if module == "ibot_jax.main" else []  # as in sys.argv
        if status := command([*name, *arguments, *flags]):
            return status
    return 0


if __name__ == "__main__":
    from ibot_jax.cli.command_line import leave

    leave(main(*sys.argv[1:]))
