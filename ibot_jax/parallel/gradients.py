"""Gradients of each device's own rows, averaged over the devices: data parallelism and FSDP."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from ibot_jax.parallel.layouts import num_shards, only, specs_of
from ibot_jax.parallel.mesh import AXES, BATCH_AXES, TENSOR_AXIS
from ibot_jax.parallel.tensor import lay_out


def average_gradients(
    function: Callable[[Any, Any, Any], tuple[Any, Any, Any]], mesh: Mesh
) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Lets each device form the gradients of its own rows, and averages them over the devices.

    Args:
      function: of (params, constants, rows), trees; rows lead with this device's examples, all
        else is whole. It returns a tree of averages over the rows, a tree of numbers of which the
        largest counts, and gradients, a tree as `params`.
      mesh: the devices.

    Returns:
      The function of global arrays, laid out by `state_sharding` and `batch_sharding`, to what
      holds for all devices. The gradients are spread over "fsdp" as `params`, over "tensor" as XLA
      has them.
    """
    number = num_shards(mesh)

    def averaged(params, constants, rows):
        specs = specs_of((params, constants), mesh)
        over_tensor = jax.tree.map(lambda spec: only(spec, TENSOR_AXIS), specs[0])
        specs = jax.tree.map(lambda spec: only(spec, "fsdp"), specs)

        def of_device(params, constants, rows):
            params, constants = jax.tree.map(_gather, (params, constants), specs)
            averages, largest, gradients = function(params, constants, rows)
            averages, gradients = jax.tree.map(lambda x: x / number, (averages, gradients))
            # Sharded as the parameters before they are reduced: less to reduce.
            gradients = jax.tree.map(lay_out, gradients, over_tensor)
            return (
                jax.lax.psum(averages, BATCH_AXES),
                jax.lax.pmax(largest, BATCH_AXES),
                jax.tree.map(_reduce, gradients, specs[0]),
            )

        return jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(*specs, PartitionSpec(BATCH_AXES)),
            out_specs=(PartitionSpec(), PartitionSpec(), specs[0]),
            # All axes where nothing is left to XLA: a TPU's kernels must be under manual control.
            axis_names=set(BATCH_AXES if mesh.shape[TENSOR_AXIS] > 1 else AXES),
            check_vma=False,  # its checker stumbles over jax.lax.erfc in float64
        )(params, constants, rows)

    return averaged


def _gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if "fsdp" not in spec:
        return x
    return jax.lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True)


def _reduce(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
    if "fsdp" not in spec:
        return jax.lax.psum(gradient, BATCH_AXES)
    own = jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)
    return jax.lax.psum(own, "data")
