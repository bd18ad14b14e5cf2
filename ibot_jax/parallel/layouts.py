"""Where arrays live: batches by their rows, the state by the names of its parameters.

How a parameter is laid out follows from its name:

| parameter | shape | dimensions over | why |
| --- | --- | --- | --- |
| `attn/qkv/kernel` | [D, 3 D] | (fsdp, tensor), - | its columns are split into heads in the step |
| `attn/proj/kernel` | [D, D] | tensor, fsdp | rows are heads |
| `mlp/fc1/kernel`, `bias` | [D, F], [F] | fsdp, tensor | columns are hidden units |
| `mlp/gate`, `value`: likewise | | | |
| `mlp/fc2/kernel` | [F, D] | tensor, fsdp | rows are hidden units |
| `last_layer/v`, `g` | [U, K], [1, K] | fsdp, tensor | columns are prototypes |
| other `kernel` | [inputs, outputs] | fsdp, - | patch embedding, MLP of the head |
| `pos_embed` | [1, 1 + N, D] | -, -, fsdp | |
| `centers`, `offsets` | [K] | tensor | |
| all else | | on each device whole | biases, norms, tokens: small |

Moments and the teacher lie as their parameters do. A dimension that an axis does not divide stays
whole.
"""

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ibot_jax.parallel.mesh import BATCH_AXES

_RULES = tuple(
    (re.compile(pattern), PartitionSpec(*dimensions))
    for pattern, dimensions in (
        (r"attn/qkv/kernel$", (("fsdp", "tensor"), None)),
        (r"attn/proj/kernel$", ("tensor", "fsdp")),
        (r"mlp/(fc1|gate|value)/kernel$", ("fsdp", "tensor")),
        (r"mlp/(fc1|gate|value)/bias$", ("tensor",)),
        (r"mlp/fc2/kernel$", ("tensor", "fsdp")),
        (r"last_layer/[vg]$", ("fsdp", "tensor")),
        (r"kernel$", ("fsdp", None)),
        (r"pos_embed$", (None, None, "fsdp")),
        (r"(centers|offsets)/\w+$", ("tensor",)),
    )
)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of what each device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of batches: examples, the leading axis, over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_shards(mesh: Mesh) -> int:
    """Returns over how many devices, or groups of them that hold the same, examples are spread."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Returns the layout of a training state, or of any tree with the names of its parameters.

    Args:
      state: a tree of arrays or of their shapes.
      mesh: the devices.

    Returns:
      The tree with a NamedSharding at each leaf.
    """
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(state, mesh))


def specs_of(tree: Any, mesh: Mesh) -> Any:
    """Returns the tree with a PartitionSpec at each leaf, by the table above."""

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


def only(spec: PartitionSpec, axis: str) -> PartitionSpec:
    """Returns what a layout says of one axis, the first where a dimension has several."""

    def keep(axes):
        return axis if axis in ((axes,) if isinstance(axes, str) else axes or ()) else None

    return PartitionSpec(*map(keep, spec))
