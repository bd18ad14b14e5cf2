"""Where arrays live: the mesh, the layout of state and batches. No other file knows devices.

The mesh has three axes, any of them 1:

    data    examples are spread over it; each device has a copy of the state
    fsdp    examples are spread over it, too, and so is the state: parameters, moments and teacher
            lie in parts, are gathered for a step, and gradients come back in the same parts
    tensor  heads, hidden units of MLPs, and prototypes are spread over it; examples are not

The gradients are formed under manual control of "data" and "fsdp" (`average_gradients`): a device
sees its own rows and whole parameters, so nothing of an activation crosses these axes, and each
gradient is reduced once. "tensor" is left to XLA's partitioner, which follows the layout of the
parameters, except in the losses, whose sums over prototypes are manual (`over_prototypes`).

How a parameter is laid out follows from its name:

| parameter | shape | dimensions over | why |
| --- | --- | --- | --- |
| `attn/qkv/kernel` | [D, 3 D] | (fsdp, tensor), - | its columns are split into heads in the step |
| `attn/proj/kernel` | [D, D] | tensor, fsdp | rows are heads |
| `mlp/fc1/kernel`, `bias` | [D, F], [F] | fsdp, tensor | columns are hidden units |
| `mlp/fc2/kernel` | [F, D] | tensor, fsdp | rows are hidden units |
| `last_layer/v`, `g` | [U, K], [1, K] | fsdp, tensor | columns are prototypes |
| other `kernel` | [inputs, outputs] | fsdp, - | patch embedding, MLP of the head |
| `pos_embed` | [1, 1 + N, D] | -, -, fsdp | |
| centers | [K] | tensor | |
| all else | | on each device whole | biases, norms, tokens: small |

Moments and the teacher lie as their parameters do. A dimension that an axis does not divide stays
whole.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # over which examples are spread
TENSOR_AXIS = "tensor"

_RULES = tuple(
    (re.compile(pattern), PartitionSpec(*dimensions))
    for pattern, dimensions in (
        (r"attn/qkv/kernel$", (("fsdp", "tensor"), None)),
        (r"attn/proj/kernel$", ("tensor", "fsdp")),
        (r"mlp/fc1/kernel$", ("fsdp", "tensor")),
        (r"mlp/fc1/bias$", ("tensor",)),
        (r"mlp/fc2/kernel$", ("tensor", "fsdp")),
        (r"last_layer/[vg]$", ("fsdp", "tensor")),
        (r"kernel$", ("fsdp", None)),
        (r"pos_embed$", (None, None, "fsdp")),
        (r"centers/(class|patch)$", ("tensor",)),
    )
)


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


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of what each device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples, the leading axis, over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Returns the layout of a training state, or of any tree with the names of its parameters.

    Args:
      state: a tree of arrays or of their shapes.
      mesh: the devices.

    Returns:
      The tree with a NamedSharding at each leaf.
    """
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(state, mesh))


def _specs(tree: Any, mesh: Mesh) -> Any:
    def spec(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next((rule for pattern, rule in _RULES if pattern.search(name)), PartitionSpec())
        return PartitionSpec(
            *(_dividing(axes, size, mesh) for axes, size in zip(rule, leaf.shape, strict=False))
        )

    return jax.tree_util.tree_map_with_path(spec, tree)


def _dividing(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh):
    """Returns the axes over which a dimension can be spread evenly, as a PartitionSpec's entry."""
    kept = []
    for axis in (axes,) if isinstance(axes, str) else axes or ():
        if mesh.shape[axis] > 1 and size % math.prod([mesh.shape[a] for a in (*kept, axis)]) == 0:
            kept.append(axis)
    return tuple(kept) if len(kept) > 1 else (kept[0] if kept else None)


def average_gradients(
    function: Callable[[Any, Any, Any], tuple[Any, Any]], mesh: Mesh
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Lets each device form the gradients of its own rows, and averages them over the devices.

    Args:
      function: of (params, constants, rows), trees; rows lead with this device's examples, all
        else is whole. It returns a tree of averages over the rows, and gradients, a tree as
        `params`.
      mesh: the devices.

    Returns:
      The function of global arrays, laid out by `state_sharding` and `batch_sharding`; the
      gradients are laid out as `params`.
    """
    number = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def spread(params, constants, rows):
        specs = _specs((params, constants), mesh)
        over_tensor = jax.tree.map(lambda spec: _only(spec, TENSOR_AXIS), specs[0])
        specs = jax.tree.map(lambda spec: _only(spec, "fsdp"), specs)

        def of_device(params, constants, rows):
            params, constants = jax.tree.map(_gather, (params, constants), specs)
            averages, gradients = function(params, constants, rows)
            averages, gradients = jax.tree.map(lambda x: x / number, (averages, gradients))
            # Of the same parts as the parameters before they are reduced: less to reduce.
            gradients = jax.tree.map(_lay_out, gradients, over_tensor)
            return jax.lax.psum(averages, BATCH_AXES), jax.tree.map(_reduce, gradients, specs[0])

        return jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(*specs, PartitionSpec(BATCH_AXES)),
            out_specs=(PartitionSpec(), specs[0]),
            # All axes where nothing is left to XLA: a TPU's kernels must be under manual control.
            axis_names=set(BATCH_AXES if mesh.shape[TENSOR_AXIS] > 1 else AXES),
            check_vma=False,  # its checker stumbles over jax.lax.erfc in float64
        )(params, constants, rows)

    return spread


def _only(spec: PartitionSpec, axis: str) -> PartitionSpec:
    """Returns what a layout says of one axis, the first where a dimension has several."""

    def keep(axes):
        return axis if axis in ((axes,) if isinstance(axes, str) else axes or ()) else None

    return PartitionSpec(*map(keep, spec))


def _gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if "fsdp" not in spec:
        return x
    return jax.lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True)


def _reduce(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
    if "fsdp" not in spec:
        return jax.lax.psum(gradient, BATCH_AXES)
    part = jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)
    return jax.lax.psum(part, "data")


def largest_of_devices(x: jax.Array) -> jax.Array:
    """Returns the largest value on any device, within `average_gradients`."""
    return jax.lax.pmax(x, BATCH_AXES)


def is_split_over_tensor() -> bool:
    """Returns whether what is being traced, within `average_gradients`, has a "tensor" axis."""
    return jax.sharding.get_abstract_mesh().shape.get(TENSOR_AXIS, 1) > 1


def split_over_tensor(x: jax.Array, dimension: int | None) -> jax.Array:
    """Says which dimension of an array lies over "tensor", or that none does.

    Within `average_gradients`; elsewhere, and where the axis is 1, nothing happens.
    """
    spec = [None] * x.ndim
    if dimension is not None:
        spec[dimension] = TENSOR_AXIS
    return _lay_out(x, PartitionSpec(*spec))


def _lay_out(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, spec) if is_split_over_tensor() else x


def over_columns(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lets a function within `average_gradients` see one device's part of the columns.

    Args:
      function: of arrays [..., D] to [B, T, D], each column of which follows from the same columns
        of the arguments, or from their neighbours that belong to the same head.
    """

    def spread(*arrays):
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

    return spread


def over_prototypes(
    function: Callable[[Any, Any], tuple[Any, Any]], mesh: Mesh
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Lets a function within `average_gradients` see one device's part of the prototypes.

    Args:
      function: of (shared, rows). Arrays of `shared` that the rules lay over "tensor" come as this
        device's part, rows whole. It returns a tree that is the same on all devices of the axis,
        and a tree of arrays [K / tensor, ...], this device's part.
      mesh: the devices.
    """
    if mesh.shape[TENSOR_AXIS] == 1:
        return function

    def spread(shared, rows):
        specs = jax.tree.map(lambda spec: _only(spec, TENSOR_AXIS), _specs(shared, mesh))
        return jax.shard_map(
            function,
            in_specs=(specs, PartitionSpec()),
            out_specs=(PartitionSpec(), PartitionSpec(TENSOR_AXIS)),
            axis_names={TENSOR_AXIS},
            check_vma=False,
        )(shared, rows)

    return spread


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins each process's share of a batch, [B / processes, ...], to global arrays [B, ...]."""
    layout = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(layout, array) for name, array in batch.items()
    }
