"""A training is put together from any sections of attributes, not from one kind of config."""

import types

import jax
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import jit_train_step, step_arguments


def attributes_of(mapping):
    """Returns nested mappings as nothing but attributes."""
    return types.SimpleNamespace(
        **{
            key: attributes_of(value) if isinstance(value, dict) else value
            for key, value in mapping.items()
        }
    )


@pytest.mark.parametrize("method", ["ibot", "dino"])
def test_values_as_attributes_are_enough(method):
    config = tiny_config(method=method, model__drop_path=0.1)
    section = attributes_of(config.to_dict())
    mesh = make_mesh(devices=jax.devices()[:1])
    arguments = step_arguments(section, make_plan(section, 64), mesh)
    expected = step_arguments(config, make_plan(config, 64), mesh)
    assert jax.tree.map(str, arguments) == jax.tree.map(str, expected)
    _, metrics = jit_train_step(section, make_plan(section, 64), mesh).eval_shape(*arguments, {})
    assert metrics["loss"].shape == ()
