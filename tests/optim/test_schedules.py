"""What changes over a run, against closed forms."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from ibot_jax.config.plan import make_plan
from ibot_jax.optim.schedules import (
    cosine,
    cosine_schedule,
    rate_schedule,
    teacher_temperature,
    temperature_schedule,
    warmed_up,
)
from ibot_jax.runs.training import make_method, make_schedules


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


def values(schedule, steps):
    return [float(schedule(jnp.float32(step))) for step in range(steps)]


def rates(steps, **changes):
    """The learning rate of each step of a run whose peak is 2, falling to 1."""
    config = tiny_config(
        duration=f"{steps} steps", optim__lr=64.0, optim__min_lr=1.0, batch_size=8, **changes
    )
    return values(make_schedules(config, make_plan(config, config.batch_size))["lr"], steps)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(schedule="linear"), [0, 2, 2, 1.8, 1.6, 1.4, 1.2]),
        (dict(schedule="linear", schedule_end="included"), [0, 2, 2, 1.75, 1.5, 1.25, 1]),
        (dict(schedule="linear", warmup_end="excluded"), [0, 1, 2, 1.8, 1.6, 1.4, 1.2]),
        (dict(schedule="constant"), [0, 2, 2, 2, 2, 2, 2]),
        (dict(schedule="constant", cooldown="2 steps"), [0, 2, 2, 2, 2, 2, 1.5]),
        (
            dict(schedule="constant", cooldown="2 steps", schedule_end="included"),
            [0, 2, 2, 2, 2, 1.5, 1],
        ),
        (
            dict(schedule_end="included"),
            [0, 2, 2, *(1.5 + np.cos(np.pi * i / 4) / 2 for i in (1, 2, 3, 4))],
        ),
    ],
    ids=str,
)
def test_the_shapes_of_a_rate(changes, expected):
    changes = {f"optim__{key}": value for key, value in changes.items()}
    np.testing.assert_allclose(rates(7, optim__warmup="2 steps", **changes), expected, rtol=1e-6)


def test_cosines_that_are_cut_end_where_they_should():
    """Five steps of a cosine of ten points, in closed form; decay and momentum with the rate."""
    points = np.cos(np.pi * np.arange(5) / 9)
    share = (points - points[-1]) / (1 - points[-1])
    config = tiny_config(
        duration="5 steps",
        optim__lr=64.0,
        optim__min_lr=1.0,
        optim__warmup="0 steps",
        optim__trunc_extra=1.0,
        optim__schedule_end="included",
        optim__weight_decay=0.1,
        optim__weight_decay_end=0.3,
        teacher_momentum=0.9,
    )
    schedules = make_schedules(config, make_plan(config, config.batch_size))
    expected = {
        "lr": 1 + share,
        "weight_decay": 0.3 - 0.2 * share,
        "teacher_rate": 0.1 * share,
    }
    for name, schedule in schedules.items():
        np.testing.assert_allclose(values(schedule, 5), expected[name], rtol=1e-6, atol=1e-9)


def test_the_momentum_ends_where_it_is_told_to():
    """A constant one is DINOv3's 7B; else half-way of a cosine is the middle."""
    for first, last in ((0.9, 0.9), (0.9, 0.98)):
        config = tiny_config(
            duration="5 steps",
            optim__warmup="0 steps",
            optim__schedule_end="included",
            teacher_momentum=first,
            teacher_momentum_end=last,
        )
        rate = values(
            make_schedules(config, make_plan(config, config.batch_size))["teacher_rate"], 5
        )
        np.testing.assert_allclose(
            np.array(rate)[[0, 2, 4]], 1 - np.array([first, (first + last) / 2, last])
        )


class TestRecorded:
    """Schedules of DINOv2 and DINOv3, up to their ends."""

    @pytest.fixture
    def tables(self, reference):
        return np.load(reference("recipe_tables.npz"))

    @pytest.mark.parametrize(
        "name",
        [
            "plain",
            "warmup",
            "freeze",
            "all_warmup",
            "truncated",
            "truncated_rising",
            "truncated_freeze",
        ],
    )
    def test_cosines(self, tables, name):
        told = json.loads(str(tables["schedules"]))[name]
        frozen, extra = told.get("freeze_iters", 0), told.get("trunc_extra", 0.0)
        warmup, total = told.get("warmup_iters", 0), told["total"] - frozen
        base, final, start = told["base"], told["final"], told.get("start_warmup_value", 0.0)
        falling = cosine(base, final, warmup, total - bool(extra), extra)
        ours = [0] * frozen + values(warmed_up(falling, base, warmup, start=start), total)
        np.testing.assert_allclose(ours, tables[f"cosine/{name}"][: told["total"]], rtol=3e-6)

    @pytest.mark.parametrize("name", ["linear_cosine", "linear_cosine_constant"])
    def test_cosines_with_both_ends(self, tables, name):
        told = json.loads(str(tables["schedules"]))[name]
        warmup, peak, final = (told[key] for key in ("warmup", "peak", "end"))
        total = warmup + told.get("cosine_iterations", told["total"] - warmup)
        falling = rate_schedule("cosine", peak, final, warmup, total - 1, cooldown=0, extra=0.0)
        ours = values(warmed_up(falling, peak, warmup, start=told["start"], end=False), total)
        recorded = tables[f"v2/{name}"]
        np.testing.assert_allclose(ours, recorded[:total], rtol=3e-6)
        np.testing.assert_allclose(recorded[total:], final)
