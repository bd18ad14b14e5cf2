"""Learning rates of probes: one is recorded, the other follows from its definition."""

import jax
import numpy as np
import pytest

from ibot_jax.evaluate.probes import rates

STEPS = np.arange(0, 40_000, 100)


def test_the_cosine_is_the_recorded_one(dense_evaluation):
    with jax.enable_x64(True):
        found = rates.cosine(STEPS, 1e-3, 40_000, 1500)
    want = dense_evaluation["lr/ade20k_linear_40000_warmup_1500"]
    np.testing.assert_allclose(found, want, rtol=1e-9)


def test_the_line_falls_to_zero_and_is_warmed_up():
    found = rates.linear(STEPS, 1e-3, 40_000, 1500)
    later = STEPS >= 1500
    np.testing.assert_allclose(found[later], 1e-3 * (1 - STEPS[later] / 40_000), rtol=1e-6)
    assert found[0] == pytest.approx(1e-9) and rates.linear(40_000, 1e-3, 40_000, 1500) == 0
    assert rates.linear(750, 1e-3, 40_000, 1500) == pytest.approx(
        1e-3 * 0.5 * (1 - 750 / 40_000), rel=1e-5
    )


def test_without_a_warmup_they_start_at_the_top():
    assert rates.linear(0, 1.0, 10, 0) == pytest.approx(1)
    assert rates.cosine(0, 1.0, 10, 0) == pytest.approx(1, rel=0.03)
