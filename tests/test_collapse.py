"""Signs of collapse, from closed forms."""

import math

import pytest

from ibot_jax.collapse import collapse_signs

K = 64
UNIFORM = math.log(K)


def signs(class_loss, teacher_entropy, teacher_mean_entropy=UNIFORM):
    metrics = {
        "class_loss": class_loss,
        "teacher_entropy": teacher_entropy,
        "teacher_mean_entropy": teacher_mean_entropy,
    }
    return collapse_signs(metrics, K)


def entropy(probs):
    return -sum(p * math.log(p) for p in probs if p > 0)


def test_a_healthy_step_has_none():
    """Half of the teacher's mass on one of K prototypes; the student's loss a little above."""
    teacher = entropy([0.5, *[0.5 / (K - 1)] * (K - 1)])
    assert signs(teacher + 0.3, teacher) == {}


def test_uniform_outputs():
    """Then loss and entropy are both ln K."""
    found = signs(UNIFORM, entropy([1 / K] * K))
    assert set(found) == {"class_loss", "uniform"}
    assert "4.159 is within 1 % of ln 64 = 4.159" in found["class_loss"]
    assert "lower" in found["uniform"]


def test_one_prototype_for_every_image():
    found = signs(0.01, entropy([1.0]), teacher_mean_entropy=0.0)
    assert set(found) == {"one_hot"}
    assert "raise loss.teacher_temp" in found["one_hot"]


@pytest.mark.parametrize(
    ("share", "seen"), [(0.985, False), (0.992, True), (1.008, True), (1.015, False)]
)
def test_near_is_one_percent_of_ln_k_on_either_side_of_the_loss(share, seen):
    assert ("class_loss" in signs(share * UNIFORM, UNIFORM / 2)) == seen


@pytest.mark.parametrize(("share", "sign"), [(0.008, "one_hot"), (0.992, "uniform")])
def test_near_is_one_percent_of_ln_k_for_the_entropy(share, sign):
    assert set(signs(UNIFORM / 2, share * UNIFORM)) == {sign}
    inside = share + 0.01 if share < 0.5 else share - 0.01
    assert signs(UNIFORM / 2, inside * UNIFORM) == {}
