"""The learning rate of a batch."""

import math

import numpy as np
import pytest

from ibot_jax.config.plan import peak_rate


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_rates_grow_with_the_batch(scaling, factor):
    assert peak_rate(1e-3, 1024, scaling) == pytest.approx(1e-3 * factor)
    assert peak_rate(1e-3, 256, scaling) == 1e-3


@pytest.mark.parametrize(
    ("rule", "lr", "scaling"),
    [
        ("dinov2_sqrt_wrt_1024", 1e-3 * math.sqrt(256 / 1024), "sqrt"),
        ("dinov3_sqrt_wrt_1024", 4e-3 * math.sqrt(256 / 1024), "sqrt"),
        ("dinov3_linear_wrt_256", 1e-3, "linear"),
    ],
)
def test_the_recorded_rules_are_ours(reference, rule, lr, scaling):
    """Of a base of 1e-3; where it is for another batch than 256 images, ours is that for 256."""
    tables = np.load(reference("recipe_tables.npz"))
    ours = [peak_rate(lr, int(batch), scaling) for batch in tables["scaling/batch"]]
    np.testing.assert_allclose(ours, tables[f"scaling/{rule}"], rtol=1e-12)
