"""Parameters spread over the mesh's "fsdp" axis, gathered where they are used (ZeRO, stage 3)."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ibot_jax.parallel.layouts import only
from ibot_jax.parallel.mesh import TENSOR_AXIS
from ibot_jax.parallel.tensor import lay_out

AXIS = "fsdp"


@flax.struct.dataclass
class Shard:
    """This device's part of a parameter, within `average_gradients`; `gather` makes it whole.

    Attributes:
      value: the part.
      spec: how the parameter lies over the mesh; one dimension over "fsdp".
    """

    value: jax.Array
    spec: PartitionSpec = flax.struct.field(pytree_node=False)


def is_shard(x: Any) -> bool:
    """Returns whether a node of a tree is a shard."""
    return isinstance(x, Shard)


def gather(params: Any, dtype: jnp.dtype) -> Any:
    """Returns a tree of parameters with its shards made whole, on all devices of the axis.

    Their gradients are summed over the axis, in the parameters' own dtype, and each device keeps
    its part.

    Args:
      params: a tree in which some leaves may be a `Shard`.
      dtype: in which they cross the axis, that of the computation. What arrives is of the
        parameters' dtype again, so that layers and their gradients are as without the axis.
    """
    return jax.tree.map(
        lambda x: _gather(x.value, x.spec, jnp.dtype(dtype)) if is_shard(x) else x,
        params,
        is_leaf=is_shard,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(shard: jax.Array, spec: PartitionSpec, dtype: jnp.dtype) -> jax.Array:
    whole = jax.lax.all_gather(shard.astype(dtype), AXIS, axis=_dimension(spec), tiled=True)
    return whole.astype(shard.dtype)


def _gather_forward(shard: jax.Array, spec: PartitionSpec, dtype: jnp.dtype):
    return _gather(shard, spec, dtype), None


def _gather_backward(spec: PartitionSpec, dtype: jnp.dtype, _: None, gradient: jax.Array):
    return (scatter_sum(gradient, spec),)


_gather.defvjp(_gather_forward, _gather_backward)


def scatter_sum(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Returns this device's part of the sum over "fsdp".

    Args:
      gradient: of a whole parameter.
      spec: how that lies over the mesh.
    """
    # Sharded as the parameter before it is summed: less to sum.
    gradient = lay_out(gradient, only(spec, TENSOR_AXIS))
    return jax.lax.psum_scatter(gradient, AXIS, scatter_dimension=_dimension(spec), tiled=True)


def _dimension(spec: PartitionSpec) -> int:
    return only(spec, AXIS).index(AXIS)
