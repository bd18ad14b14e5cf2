"""Where arrays lie, by the table at the head of the module."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ibot_jax.parallel import layouts
from ibot_jax.parallel.mesh import make_mesh


def mesh_of(fsdp, tensor):
    return make_mesh(fsdp=fsdp, tensor=tensor)


def spec_of(name, shape, mesh):
    tree = jax.ShapeDtypeStruct(shape, jnp.float32)
    for key in reversed(name.split("/")):
        tree = {key: tree}
    return jax.tree.leaves(layouts.specs_of(tree, mesh), is_leaf=lambda leaf: isinstance(leaf, P))[
        0
    ]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks_0/attn/qkv/kernel", (16, 48), P(("fsdp", "tensor"), None)),
        ("blocks_0/attn/qkv/bias", (48,), P(None)),
        ("blocks_0/attn/proj/kernel", (16, 16), P("tensor", "fsdp")),
        ("blocks_0/mlp/fc1/kernel", (16, 64), P("fsdp", "tensor")),
        ("blocks_0/mlp/fc1/bias", (64,), P("tensor")),
        ("blocks_0/mlp/fc2/kernel", (64, 16), P("tensor", "fsdp")),
        ("blocks_0/mlp/fc2/bias", (16,), P(None)),
        ("head/last_layer/v", (16, 32), P("fsdp", "tensor")),
        ("head/patch_last_layer/g", (1, 32), P(None, "tensor")),
        ("head/mlp_0/kernel", (16, 32), P("fsdp", None)),
        ("pos_embed", (1, 17, 16), P(None, None, "fsdp")),
        ("buffers/centers/class", (32,), P("tensor")),
        ("buffers/centers/patch", (32,), P("tensor")),
        ("norm/scale", (16,), P(None)),
        ("step", (), P()),
    ],
)
def test_a_parameter_lies_as_its_name_says(name, shape, expected):
    found = spec_of(name, shape, mesh_of(2, 2))
    assert tuple(found) == tuple(expected)[: len(found)]
    assert not any(tuple(expected)[len(found) :])


@pytest.mark.parametrize(
    ("fsdp", "tensor", "shape", "expected"),
    [
        (2, 4, (8, 3), P(("fsdp", "tensor"), None)),
        (2, 4, (6, 3), P("fsdp", None)),  # by 2, and not by 8
        (4, 2, (6, 3), P("tensor", None)),  # not by 4, by 2
        (4, 2, (4, 3), P("fsdp", None)),
        (2, 2, (5, 3), P(None, None)),
        (8, 1, (8, 3), P("fsdp", None)),
        (1, 8, (8, 3), P("tensor", None)),
        (1, 1, (8, 3), P(None, None)),
    ],
)
def test_a_dimension_lies_over_the_axes_that_divide_it(fsdp, tensor, shape, expected):
    assert spec_of("attn/qkv/kernel", shape, mesh_of(fsdp, tensor)) == expected


def test_a_state_is_laid_out_on_its_mesh():
    mesh = mesh_of(2, 2)
    state = {"mlp": {"fc1": {"kernel": jnp.zeros((4, 6))}}, "step": jnp.zeros(())}
    found = layouts.state_sharding(state, mesh)
    kernel = found["mlp"]["fc1"]["kernel"]
    assert kernel.mesh == mesh and kernel.spec == P("fsdp", "tensor")
    assert found["step"].is_fully_replicated


@pytest.mark.parametrize(("fsdp", "tensor", "shards"), [(1, 1, 8), (4, 1, 8), (2, 2, 4), (2, 4, 2)])
def test_examples_are_spread_over_all_devices_but_those_of_tensor(fsdp, tensor, shards):
    mesh = mesh_of(fsdp, tensor)
    assert layouts.num_shards(mesh) == shards
    assert layouts.batch_sharding(mesh).shard_shape((16, 3)) == (16 // shards, 3)
    assert layouts.replicated(mesh).is_fully_replicated


def test_what_a_layout_says_of_one_axis():
    spec = P(("fsdp", "tensor"), None, "tensor", "fsdp")
    assert layouts.only(spec, "fsdp") == P("fsdp", None, None, "fsdp")
    assert layouts.only(spec, "tensor") == P("tensor", None, "tensor", None)
    assert layouts.only(spec, "data") == P(None, None, None, None)
