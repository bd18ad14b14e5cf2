"""Columns and prototypes over the axis "tensor" are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ibot_jax.parallel import tensor
from ibot_jax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(4, 3, 16)).astype(np.float32)
GAINS = RNG.normal(size=16).astype(np.float32)


def within(size, function, *arrays):
    """Runs a function as `average_gradients` does, all else than "tensor" in manual control."""
    mesh = make_mesh(tensor=size)
    manual = {"data", "fsdp"} if size > 1 else set(mesh.axis_names)
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
            axis_names=manual,
            check_vma=False,
        )
    )(*arrays)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_size_of_the_axis_is_that_of_what_is_traced(size):
    seen = []

    def function(x):
        seen.append((tensor.tensor_size(), tensor.is_split_over_tensor()))
        return x

    within(size, function, GAINS)
    assert seen[-1] == (size, size > 1)
    assert tensor.tensor_size() == 1 and not tensor.is_split_over_tensor()  # outside


@pytest.mark.parametrize("size", [1, 2, 4])
def test_columns_are_shared_out_and_come_back_in_their_order(size):
    """A head of 4 columns less its own mean, times gains of its own."""
    widths = []

    def heads(tokens, gains):
        widths.append(tokens.shape[-1])
        heads = (tokens * gains).reshape(*tokens.shape[:-1], -1, 4)
        return (heads - heads.mean(-1, keepdims=True)).reshape(tokens.shape)

    found = within(size, tensor.over_columns(heads), TOKENS, GAINS)
    expected = (TOKENS * GAINS).reshape(4, 3, 4, 4)
    expected = (expected - expected.mean(-1, keepdims=True)).reshape(TOKENS.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert widths[-1] == 16 // size


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prototypes_are_shared_out_and_rows_are_not(size):
    layer = RNG.normal(size=(8, 12)).astype(np.float32)
    other = RNG.normal(size=(8, 8)).astype(np.float32)
    centers, rows = np.arange(12, dtype=np.float32), RNG.normal(size=(5, 8)).astype(np.float32)
    shapes = []

    def compared(shared, rows):
        v = shared["last_layer"]["v"]
        shapes.append((v.shape, shared["centers"]["class"].shape, shared["kernel"].shape))
        logits = rows @ shared["kernel"] @ v - shared["centers"]["class"]
        total = logits.sum()
        if size > 1:
            total = jax.lax.psum(total, "tensor")
        return {"total": total}, {"mean": logits.mean(0)}

    shared = {"last_layer": {"v": layer}, "centers": {"class": centers}, "kernel": other}
    whole, parts = within(size, tensor.over_prototypes(compared), shared, rows)
    logits = rows @ other @ layer - centers
    np.testing.assert_allclose(whole["total"], logits.sum(), rtol=1e-4)
    np.testing.assert_allclose(parts["mean"], logits.mean(0), rtol=1e-4, atol=1e-4)
    assert shapes[-1] == ((8, 12 // size), (12 // size,), (8, 8))


@pytest.mark.parametrize("dimension", [0, 2, -1, None])
def test_a_layout_over_tensor_is_said_where_there_is_the_axis(dimension):
    def constraints(size):
        def function(x):
            return tensor.split_over_tensor(x, dimension) * 2

        return str(jax.make_jaxpr(lambda x: within(size, function, x))(TOKENS))

    assert "sharding_constraint" not in constraints(1)
    named = {0: "'tensor', None, None", None: "None, None, None"}
    assert named.get(dimension, "None, None, 'tensor'") in constraints(2)
    np.testing.assert_array_equal(
        within(4, lambda x: tensor.split_over_tensor(x, dimension), TOKENS), TOKENS
    )
    assert tensor.split_over_tensor(jnp.asarray(TOKENS), dimension) is not None
