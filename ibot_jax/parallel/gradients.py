"""Gradients of each device's own rows, averaged over the devices: data parallelism and FSDP."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from ibot_jax.parallel.fsdp import AXIS, Shard, gather, is_shard, scatter_sum
from ibot_jax.parallel.layouts import num_shards, only, specs_of
from ibot_jax.parallel.mesh import AXES, BATCH_AXES, TENSOR_AXIS
from ibot_jax.parallel.tensor import lay_out


def average_gradients(
    function: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    mesh: Mesh,
    gathers: Callable[[str], bool] = lambda name: False,
) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Lets each device form the gradients of its own rows, and averages them over the devices.

    Args:
      function: of (params, constants, rows), trees; rows lead with this device's examples, all
        else is whole, but for what it gathers. It returns a tree of averages over the rows, a tree
        of numbers of which the largest counts, and gradients, a tree as `params`.
      mesh: the devices.
      gathers: from the name of a parameter, "backbone/blocks_0/mlp/fc1/kernel" or what ends so, to
        whether the function gathers it by itself (`fsdp.gather`), where it lies over "fsdp".

    Returns:
      The function of global arrays, laid out by `state_sharding` and `batch_sharding`, to what
      holds for all devices. The gradients are spread over "fsdp" as `params`, over "tensor" as XLA
      has them.
    """
    number = num_shards(mesh)

    def take(path, x: jax.Array, spec: PartitionSpec) -> jax.Array | Shard:
        """Returns a parameter as the function takes it."""
        if AXIS not in only(spec, AXIS):
            return x
        shard = Shard(x, spec)
        late = gathers(jax.tree_util.keystr(path, simple=True, separator="/"))
        return shard if late else gather(shard, x.dtype)

    def averaged(params, constants, rows):
        specs = specs_of((params, constants), mesh)
        own = jax.tree.map(lambda spec: only(spec, AXIS), specs)

        def of_device(params, constants, rows):
            trees = jax.tree_util.tree_map_with_path(take, (params, constants), specs)
            averages, largest, gradients = function(*trees, rows)
            with jax.named_scope("gradients"):
                averages, gradients = jax.tree.map(lambda x: x / number, (averages, gradients))
                return (
                    jax.lax.psum(averages, BATCH_AXES),
                    jax.lax.pmax(largest, BATCH_AXES),
                    jax.tree.map(_reduce, gradients, specs[0], is_leaf=is_shard),
                )

        return jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(*own, PartitionSpec(BATCH_AXES)),
            out_specs=(PartitionSpec(), PartitionSpec(), own[0]),
            # All axes where nothing is left to XLA: a TPU's kernels must be under manual control.
            axis_names=set(BATCH_AXES if mesh.shape[TENSOR_AXIS] > 1 else AXES),
            check_vma=False,  # its checker stumbles over jax.lax.erfc in float64
        )(params, constants, rows)

    return averaged


def _reduce(gradient: jax.Array | Shard, spec: PartitionSpec) -> jax.Array:
    if is_shard(gradient):
        return jax.lax.psum(gradient.value, "data")
    if AXIS in only(spec, AXIS):
        return jax.lax.psum(scatter_sum(gradient, spec), "data")
    return jax.lax.psum(lay_out(gradient, only(spec, TENSOR_AXIS)), BATCH_AXES)
