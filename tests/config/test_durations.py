"""Lengths of time as texts."""

import math

import pytest

from ibot_jax.config import durations

RUN = dict(batch_size=8, steps_per_epoch=100, total_steps=1000)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("3 epochs", 300),
        ("3", 300),
        ("0.5 epoch", 50),
        ("7 steps", 7),
        ("1 step", 1),
        ("1e3 examples", 125),
        ("10%", 100),
        ("10 %", 100),
        ("2.5 percent", 25),
        (" 0 epochs ", 0),
        ("1e-1 epochs", 10),
    ],
)
def test_they_are_so_many_steps(text, steps):
    assert durations.to_steps(text, **RUN) == steps


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ten epochs", "is no duration"),
        ("", "is no duration"),
        ("epochs", "is no duration"),
        ("3 days", "is no duration"),
        ("1e3e3", "is no duration"),
        ("nan epochs", "is no duration"),
        ("-1 epochs", "is negative"),
        ("1e30 epochs", "is longer than any run"),
        ("1e999 steps", "is longer than any run"),
        ("101%", "is more than the whole run"),
    ],
)
def test_others_are_told(text, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        durations.parse(text)


def test_a_share_is_of_something():
    with pytest.raises(ValueError, match="is a share of itself"):
        durations.to_steps("10%", batch_size=8, steps_per_epoch=100)


@pytest.mark.parametrize(
    ("text", "whole", "share"),
    [
        ("10 epochs", "40 epochs", 0.25),
        ("16 examples", "4 steps", 0.5),
        ("2 steps", "80 examples", 0.2),
        ("20%", "7 steps", 0.2),
        ("1 epochs", "100 steps", math.nan),
        ("1 epochs", "0 epochs", math.nan),
    ],
)
def test_shares_of_a_run_that_no_data_is_needed_for(text, whole, share):
    assert durations.share(text, whole, 8) == pytest.approx(share, nan_ok=True)
