"""Averages and gradients over all rows, as one device has them, by closed forms in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ibot_jax.parallel.gradients import average_gradients
from ibot_jax.parallel.layouts import batch_sharding, only, specs_of, state_sharding
from ibot_jax.parallel.mesh import make_mesh

RNG = np.random.default_rng(0)
MESHES = {"8x1x1": (1, 1), "1x8x1": (8, 1), "2x4x1": (4, 1), "2x2x2": (2, 2), "1x2x4": (2, 4)}


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# Over fsdp and tensor, over the two in the other order, over both at once, over neither.
PARAMS = {
    "mlp": {"fc1": {"kernel": draw(8, 16)}, "fc2": {"kernel": draw(16, 8)}},
    "attn": {"qkv": {"kernel": draw(8, 24)}},
    "norm": {"scale": draw(3)},
}
CONSTANTS = {"mlp": {"fc1": {"kernel": draw(8, 16)}}}
ROWS = {"x": draw(16, 8), "h": draw(16, 16), "y": draw(16, 24), "s": draw(16, 3)}


def products(params, constants, rows):
    """A loss of each row that is linear in the parameters."""
    fc1 = params["mlp"]["fc1"]["kernel"] + constants["mlp"]["fc1"]["kernel"]
    return (
        ((rows["x"] @ fc1) * rows["h"]).sum(-1)
        + ((rows["h"] @ params["mlp"]["fc2"]["kernel"]) * rows["x"]).sum(-1)
        + ((rows["x"] @ params["attn"]["qkv"]["kernel"]) * rows["y"]).sum(-1)
        + rows["s"] @ params["norm"]["scale"]
    )


def gradients_by_hand():
    def outer(a, b):
        return np.einsum("na,nb->ab", ROWS[a], ROWS[b]) / 16

    return {
        "mlp": {"fc1": {"kernel": outer("x", "h")}, "fc2": {"kernel": outer("h", "x")}},
        "attn": {"qkv": {"kernel": outer("x", "y")}},
        "norm": {"scale": ROWS["s"].mean(0)},
    }


@pytest.mark.parametrize("name", MESHES)
def test_gradients_are_the_mean_over_all_rows_and_lie_as_their_parameters(name):
    fsdp, tensor = MESHES[name]
    mesh = make_mesh(fsdp=fsdp, tensor=tensor)

    seen = set()

    def function(params, constants, rows):
        seen.add(len(rows["x"]))

        def loss_of(params):
            losses = products(params, constants, rows)
            return losses.mean(), losses.max()

        (mean, largest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return mean, largest, gradients

    trees = PARAMS, CONSTANTS
    layouts = *state_sharding(trees, mesh), batch_sharding(mesh)
    averaged = jax.jit(average_gradients(function, mesh), in_shardings=layouts)
    mean, largest, gradients = averaged(*trees, ROWS)
    assert seen == {16 * tensor // 8}  # a device's own rows
    losses = products(PARAMS, CONSTANTS, ROWS)
    np.testing.assert_allclose([mean, largest], [losses.mean(), losses.max()], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradients,
        gradients_by_hand(),
    )
    # Where over "tensor", the partitioner says.
    own = jax.tree.map(lambda spec: NamedSharding(mesh, only(spec, "fsdp")), specs_of(PARAMS, mesh))
    for gradient, layout in zip(*map(jax.tree.leaves, (gradients, own)), strict=True):
        found = NamedSharding(mesh, only(gradient.sharding.spec, "fsdp"))
        assert found.is_equivalent_to(layout, gradient.ndim)


@pytest.mark.parametrize(("tensor", "left_to_xla"), [(1, set()), (2, {"tensor"})])
def test_only_an_axis_of_tensor_is_left_to_the_partitioner(tensor, left_to_xla):
    mesh = make_mesh(tensor=tensor)
    seen = []

    def function(params, constants, rows):
        inside = jax.sharding.get_abstract_mesh()
        seen.append(set(inside.axis_names) - set(inside.manual_axes))
        return rows["s"].mean(), (), params

    jax.eval_shape(average_gradients(function, mesh), PARAMS, CONSTANTS, ROWS)
    assert seen[-1] == left_to_xla


def test_rows_and_averages_in_float64_stay_so():
    with jax.enable_x64(True):
        mesh = make_mesh()
        rows = jnp.arange(16.0)
        mean, *_ = average_gradients(lambda p, c, rows: (rows.mean(), (), p), mesh)({}, {}, rows)
        assert mean == 7.5 and mean.dtype == jnp.float64
