"""Heads, hidden units and prototypes over the mesh's "tensor" axis, within `average_gradients`."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from ibot_jax.parallel.layouts import only, specs_of
from ibot_jax.parallel.mesh import TENSOR_AXIS


def tensor_size() -> int:
    """Returns the size of the "tensor" axis of what is being traced, within `average_gradients`."""
    return jax.sharding.get_abstract_mesh().shape.get(TENSOR_AXIS, 1)


def is_split_over_tensor() -> bool:
    """Returns whether what is being traced, within `average_gradients`, has a "tensor" axis."""
    return tensor_size() > 1


def split_over_tensor(x: jax.Array, dimension: int | None) -> jax.Array:
    """Says which dimension of an array lies over "tensor", or that none does.

    Within `average_gradients`; elsewhere, and where the axis is 1, nothing happens.
    """
    spec = [None] * x.ndim
    if dimension is not None:
        spec[dimension] = TENSOR_AXIS
    return lay_out(x, PartitionSpec(*spec))


def lay_out(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Says how an array lies over "tensor", as `split_over_tensor` does."""
    return jax.lax.with_sharding_constraint(x, spec) if is_split_over_tensor() else x


def over_columns(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lets a function within `average_gradients` see one device's shard of the columns.

    Args:
      function: of arrays [..., D] to [B, T, D], each column of which follows from the same columns
        of the arguments, or from their neighbours that belong to the same head.
    """

    def by_columns(*arrays):
        if not is_split_over_tensor():
            return function(*arrays)
        specs = jax.tree.map(lambda x: PartitionSpec(*[None] * (x.ndim - 1), TENSOR_AXIS), arrays)
        return jax.shard_map(
            function,
            in_specs=specs,
            out_specs=PartitionSpec(None, None, TENSOR_AXIS),
            axis_names={TENSOR_AXIS},
            check_vma=False,
        )(*arrays)

    return by_columns


def over_prototypes(function: Callable[[Any, Any], tuple[Any, Any]]) -> Callable:
    """Lets a function within `average_gradients` see one device's shard of the prototypes.

    Args:
      function: of (shared, rows). Arrays of `shared` that the rules lay over "tensor" come as this
        device's shard, rows whole. It returns a tree that is the same on all devices of the axis,
        and a tree of arrays [K / tensor, ...], this device's shard.
    """

    def by_prototypes(shared, rows):
        if not is_split_over_tensor():
            return function(shared, rows)
        specs = specs_of(shared, jax.sharding.get_abstract_mesh())
        return jax.shard_map(
            function,
            in_specs=(jax.tree.map(lambda spec: only(spec, TENSOR_AXIS), specs), PartitionSpec()),
            out_specs=(PartitionSpec(), PartitionSpec(TENSOR_AXIS)),
            axis_names={TENSOR_AXIS},
            check_vma=False,
        )(shared, rows)

    return by_prototypes
