"""Signs of collapse, from closed forms."""

import math

import pytest

from ibot_jax.runs.reporting.collapse import balance_signs, collapse_signs, evaluation_signs

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


@pytest.mark.parametrize(("distance", "seen"), [(0.06, False), (0.04, True)])
def test_images_that_look_alike(distance, seen):
    metrics = {"class_loss": 2.0, "teacher_entropy": 1.0, "teacher_mean_entropy": UNIFORM}
    found = collapse_signs(metrics | {"nearest_distance": distance}, K)
    assert set(found) == ({"nearest"} if seen else set())
    assert all("raise loss.koleo_weight" in text for text in found.values())


@pytest.mark.parametrize(("drift", "seen"), [(0.09, False), (0.16, True)])
def test_patches_that_drift_away(drift, seen):
    metrics = {"class_loss": 2.0, "teacher_entropy": 1.0, "teacher_mean_entropy": UNIFORM}
    found = collapse_signs(metrics | {"gram_drift": drift}, K)
    assert set(found) == ({"gram_drift"} if seen else set())
    assert all("are 0.40 from" in text and "raise gram.weight" in text for text in found.values())


def test_targets_that_are_not_balanced():
    assert balance_signs({}) == {}
    assert balance_signs({"sinkhorn_class_error": 0.26, "sinkhorn_patch_error": 0.1}) == {}
    found = balance_signs({"sinkhorn_class_error": 0.05, "sinkhorn_patch_error": 0.45})
    assert set(found) == {"sinkhorn_patch"}
    assert "45% of the patch tokens" in found["sinkhorn_patch"]
    assert "raise loss.sinkhorn_turns" in found["sinkhorn_patch"]


def evaluated(rank=20.0, used=0.3, patches_used=0.3, images=1000, patch=K):
    values = {
        "feature_rank": rank,
        "prototypes_used": used,
        "patch_prototypes_used": patches_used,
    }
    return evaluation_signs(values, images=images, prototypes={"class": K, "patch": patch})


def test_a_teacher_that_uses_its_features_and_prototypes_has_no_sign():
    assert evaluated() == {}
    assert evaluated(rank=2.0, used=2 / K, patches_used=2 / K) == {}


def test_features_that_point_the_same_way():
    found = evaluated(rank=1.02)
    assert set(found) == {"rank"}
    assert "is 1.02: 1,000 images look all but alike" in found["rank"]
    assert "lower optim.lr" in found["rank"]


def test_one_prototype_for_all_tokens():
    found = evaluated(used=1 / K)
    assert set(found) == {"prototypes_used"}
    assert "class tokens of 1,000 images fall on 1 of 64 prototypes" in found["prototypes_used"]
    assert "lower optim.lr, of centered targets loss.center_momentum" in found["prototypes_used"]
    assert set(evaluated(patches_used=1 / K)) == {"patch_prototypes_used"}


@pytest.mark.parametrize(
    ("images", "used", "seen"), [(10_000, 80, True), (10_000, 90, False), (300, 4, False)]
)
def test_few_prototypes_are_one_percent_of_those_that_could_be_in_use(images, used, seen):
    found = evaluated(patches_used=used / 8192, patch=8192, images=images)
    assert ("patch_prototypes_used" in found) == seen
