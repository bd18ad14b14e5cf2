"""The teacher that starts from a student, and its moving average, by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ibot_jax.optim.ema_teacher import ema_teacher, teacher_from_student


def student(*layers):
    return {"backbone": {"w": jnp.ones(2)}, "head": {name: jnp.full(2, i) for i, name in layers}}


BOTH = student((1, "last_layer"), (2, "patch_last_layer"))
SHARED = student((1, "last_layer"))


@pytest.mark.parametrize(
    ("params", "shared", "expected"),
    [
        (BOTH, False, {"last_layer": 1, "patch_last_layer": 2}),
        (BOTH, True, {"last_layer": 2}),  # as the original's state dict has the patch layer last
        (SHARED, True, {"last_layer": 1}),
        (SHARED, False, {"last_layer": 1, "patch_last_layer": 1}),
    ],
)
def test_a_teacher_has_the_last_layers_that_it_shares_or_not(params, shared, expected):
    teacher = teacher_from_student(params, shared)
    assert {name: float(layer[0]) for name, layer in teacher["head"].items()} == expected
    assert params["head"].keys() in (BOTH["head"].keys(), SHARED["head"].keys())  # left as it was


def test_the_teacher_averages_the_student_as_it_will_be():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
    link = ema_teacher(lambda step: 0.1 * step, lambda params: params | {"c": jnp.array([5.0])})
    state = link.init(params)
    updates = {"a": jnp.array([0.5, -1.0]), "b": jnp.array([1.0])}
    passed, state = link.update(updates, state, params, step=jnp.float32(2))
    assert passed is updates
    teacher = optax.tree.get(state, "teacher")
    np.testing.assert_allclose(teacher["a"], [1 + 0.2 * 0.5, 2 - 0.2 * 1.0], rtol=1e-6)
    np.testing.assert_allclose(teacher["b"], [3.2], rtol=1e-6)
    np.testing.assert_array_equal(teacher["c"], [5.0])  # what the student lacks stays
