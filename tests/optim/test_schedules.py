"""What changes over a run, against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.optim.schedules import teacher_temperature
from ibot_jax.runs.training import make_method


def temperatures(**changes):
    """The class and the patch temperature of each of 20 steps, 5 of them an epoch."""
    config = tiny_config(
        duration="4 epochs", loss__teacher_temp_start=0.04, loss__teacher_temp=0.07, **changes
    )
    schedules = make_method(config, make_plan(config, 5 * config.batch_size)).schedules
    steps = np.arange(20, dtype=np.float32)
    return [
        [float(schedules[name](step)) for step in steps]
        for name in ("teacher_temp", "teacher_patch_temp")
    ]


@pytest.mark.parametrize("text", ["50%", "50 percent", "10 steps", "80 examples"])
def test_temperatures_rise_by_steps_unless_they_rise_for_epochs(text):
    rising = [*np.linspace(0.04, 0.07, 10), *[0.07] * 10]
    class_temp, patch_temp = temperatures(loss__teacher_temp_warmup=text)
    np.testing.assert_allclose(class_temp, rising, rtol=1e-6)
    np.testing.assert_allclose(patch_temp, rising, rtol=1e-6)


def test_they_rise_by_epochs_as_the_originals():
    class_temp, _ = temperatures(loss__teacher_temp_warmup="3 epochs")
    np.testing.assert_allclose(class_temp, np.repeat([0.04, 0.055, 0.07, 0.07], 5), rtol=1e-6)


def test_patches_wait_for_their_masks():
    _, patch_temp = temperatures(loss__teacher_temp_warmup="25%", masks__start="1 epochs")
    expected = [*[0.04] * 5, *np.linspace(0.04, 0.07, 5), *[0.07] * 10]
    np.testing.assert_allclose(patch_temp, expected, rtol=1e-6)


@pytest.mark.parametrize("wait", [0, 2])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_teacher_temperature_is_a_staircase(wait, warmup):
    epochs = 10
    expected = np.concatenate(
        [
            np.full(wait, 0.04),
            np.linspace(0.04, 0.07, warmup),
            np.full(epochs - wait - warmup, 0.07),
        ]
    )
    if warmup == 0:
        expected[:wait] = 0.04
    ours = [
        teacher_temperature(jnp.float32(epoch), 0.04, 0.07, warmup, wait) for epoch in range(epochs)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
