"""mCE against numbers by hand."""

import pytest

from ibot_jax.evaluate.benchmarks.corruptions import (
    ALEXNET_ERRORS,
    corruption_errors,
    mean_corruption_error,
)


def test_alexnet_itself_has_100_percent():
    top1 = {name: [100 - error] * 5 for name, error in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(top1) == pytest.approx(100)
    assert corruption_errors(top1)["fog"] == pytest.approx(100)


def test_alexnets_errors_are_the_published_ones_in_whole_percent():
    """In the order of the benchmark: noise, blur, weather, digital."""
    published = [89, 89, 92, 82, 83, 79, 80, 87, 83, 82, 56, 85, 65, 72, 61]
    assert [round(error) for error in ALEXNET_ERRORS.values()] == published


def test_errors_are_summed_over_severities_before_they_are_divided():
    top1 = {name: [100.0] * 5 for name in ALEXNET_ERRORS}
    top1["brightness"] = [90, 80, 70, 60, 50]  # a mean error of 30, over 56.4592
    assert corruption_errors(top1)["brightness"] == pytest.approx(53.1357, abs=1e-4)
    assert mean_corruption_error(top1) == pytest.approx(53.1357 / 15, abs=1e-4)


def test_all_fifteen_are_needed():
    with pytest.raises(ValueError, match="no accuracy of fog"):
        mean_corruption_error({name: [50] * 5 for name in ALEXNET_ERRORS if name != "fog"})
