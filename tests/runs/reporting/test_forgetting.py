"""Signs that features are lost, on evaluations made up."""

import math

import pytest

from ibot_jax.runs.reporting.forgetting import forgetting_signs

MANY = 1_000_000


def signs(now, first, images=MANY, prefix=""):
    key = f"{prefix}knn_top1"
    return forgetting_signs({key: now}, {key: first}, {prefix: images})


def test_what_published_runs_have_seen_is_a_sign():
    """From 80 % to 10 %: on the old images and on the new ones, told apart."""
    values, first = ({f"{name}knn_top1": x for name in ("", "old_")} for x in (10.0, 80.0))
    found = forgetting_signs(values, first, {"": 1000, "old_": 1000})
    assert set(found) == {"knn_top1", "old_knn_top1"}
    assert found["old_knn_top1"].startswith(
        "k-NN of the old images is 10.0 %, and was 80.0 % before the first step: "
    )
    assert "k-NN of the images is 10.0 %" in found["knn_top1"]
    keys = "optim.lr", "teacher_momentum", "optim.freeze", "lora.rank"
    assert all(key in text for key in keys for text in found.values())


@pytest.mark.parametrize(("now", "seen"), [(90, False), (60, False), (58.1, False), (57.9, True)])
def test_a_fall_is_one_of_more_than_two_points(now, seen):
    assert bool(signs(now, 60)) == seen


@pytest.mark.parametrize("images", [50, 400, 1000])
def test_few_images_make_no_alarm(images):
    """Two standard errors of a difference of binomial shares, here both near a half."""
    error = 100 * math.sqrt(2 * 0.25 / images)
    assert not signs(50 - 0.95 * error, 50 + 0.95 * error, images)
    assert signs(50 - 1.05 * error, 50 + 1.05 * error, images)


def test_what_was_not_measured_at_first_is_no_sign():
    assert forgetting_signs({"knn_top1": 1.0, "old_knn_top1": 1.0}, {}, {"": 10, "old_": 10}) == {}
    assert forgetting_signs({"feature_rank": 9.0}, {"knn_top1": 90.0}, {"": MANY}) == {}
