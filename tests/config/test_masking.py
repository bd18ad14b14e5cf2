"""The share of a view that is masked, by the config."""

import math

import numpy as np
import pytest

from ibot_jax.config import get_config
from ibot_jax.config.masking import masked_share


def share_of(**keys):
    masks = get_config().masks
    masks.update(keys)
    return masked_share(masks)


def test_the_share_that_is_masked_is_that_of_its_draws():
    mean, deviation = share_of(ratios=(0.1, 0.4), variances=(0.0, 0.2))
    assert mean == pytest.approx(0.25)
    # Half of the views always have 0.1; the others are uniform in [0.2, 0.6].
    second_moment = (0.1**2 + (0.6**3 - 0.2**3) / 3 / 0.4) / 2
    assert deviation == pytest.approx(math.sqrt(second_moment - 0.25**2))
    assert share_of(ratios=(0.3,), variances=(0.0,)) == pytest.approx((0.3, 0), abs=1e-8)
    with pytest.raises(ValueError):
        share_of(ratios=(0.1, 0.4), variances=(0.0,))
    # Of equal ratios the variance may be rounded to less than nothing.
    assert share_of(ratios=(0.15,) * 6, variances=(0.0,) * 6) == pytest.approx((0.15, 0), abs=1e-8)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_dealt_shares_are_uniform_in_their_range_or_0(kind):
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0.2, 0.6, 100_000) * (rng.random(100_000) < 0.4)
    found = share_of(kind=kind, share=0.4, range=(0.2, 0.6))
    assert found == pytest.approx((drawn.mean(), drawn.std()), rel=0.02)
