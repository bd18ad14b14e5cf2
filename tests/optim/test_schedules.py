"""What changes over a run, against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.optim.schedules import cosine_schedule, teacher_temperature, temperature_schedule
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
@pytest.mark.parametrize("warmup", [0, 1, 2, 4])
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


@pytest.mark.parametrize("warmup", [0, 1, 2, 3, 6])
def test_a_rate_rises_to_its_peak_and_falls_along_a_cosine(warmup):
    falling = 0.1 + 0.4 * (1 + np.cos(np.pi * np.arange(12 - warmup) / (12 - warmup))) / 2
    expected = np.concatenate([np.linspace(0, 0.5, warmup), falling])
    schedule = cosine_schedule(0.5, 0.1, 12, warmup)
    np.testing.assert_allclose([schedule(jnp.float32(i)) for i in range(12)], expected, rtol=1e-5)


def test_epochs_that_are_not_whole_are_waited_for_to_their_end():
    plan = make_plan(tiny_config(duration="8 epochs"), 5 * tiny_config().batch_size)
    schedule = temperature_schedule(0.04, 0.07, warmup="2.4 epochs", wait="1.2 epochs", plan=plan)
    by_epoch = [0.04, 0.04, 0.04, 0.055, 0.07, 0.07, 0.07, 0.07]
    ours = [schedule(jnp.float32(step)) for step in range(40)]
    np.testing.assert_allclose(ours, np.repeat(by_epoch, 5), rtol=1e-6)
