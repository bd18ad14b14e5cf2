"""A training is put together from any sections of attributes, not from one kind of config."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.runs.training import jit_train_step, make_schedules, step_arguments


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


def test_schedules_end_with_the_run():
    """40 steps, of which 5 warm up; of 512 images at twice the rate of 256."""
    config = tiny_config(
        batch_size=512,
        duration="8 epochs",
        teacher_momentum=0.9,
        optim__lr=0.3,
        optim__min_lr=0.1,
        optim__warmup="1 epochs",
        optim__weight_decay=0.02,
        optim__weight_decay_end=0.4,
    )
    schedules = make_schedules(config, make_plan(config, 5 * 512 + 1))
    assert schedules.keys() == {"lr", "weight_decay", "teacher_rate"}
    steps = np.arange(40)
    falling = (1 + np.cos(np.pi * steps / 40)) / 2
    expected = {
        "lr": np.concatenate(
            [np.linspace(0, 0.6, 5), 0.1 + 0.5 * (1 + np.cos(np.pi * np.arange(35) / 35)) / 2]
        ),
        "weight_decay": 0.4 - 0.38 * falling,
        "teacher_rate": 0.1 * falling,
    }
    for name, values in expected.items():
        found = [float(schedules[name](jnp.float32(step))) for step in steps]
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-8, err_msg=name)
        # What would be the step after the last has the final value.
        assert schedules[name](40.0) == pytest.approx({"lr": 0.1, "weight_decay": 0.4}.get(name, 0))
