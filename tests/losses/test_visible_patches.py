"""The patch loss of iBOT++, which visible tokens have, too, against recorded values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.centering import teacher_probs, update_center
from ibot_jax.losses.patches import patch_loss, patch_weights


@pytest.fixture(scope="module")
def recorded(reference):
    return np.load(reference("dino_losses.npz"))


@pytest.mark.parametrize("case", ["visible_weight=1", "visible_weight=0.3", "visible_weight=0"])
def test_it_is_the_recorded_one(recorded, case):
    with jax.enable_x64(True):
        mask, temp = recorded["plusplus/mask"][:, None], float(recorded["plusplus/teacher_temp"])
        student, teacher = (
            jnp.asarray(recorded[f"plusplus/{who}_logits"]) for who in ("student", "teacher")
        )
        targets = teacher_probs(teacher, jnp.zeros(24), temp)
        weights = patch_weights(jnp.asarray(mask), student.dtype, float(case.partition("=")[2]))

        def loss(student):
            return patch_loss(
                student.reshape(-1, 24), targets.reshape(-1, 24), weights.reshape(-1), 0.1
            )

        value, gradient = jax.value_and_grad(loss)(student)
        np.testing.assert_allclose(value, recorded[f"plusplus/{case}"], rtol=1e-12)
        np.testing.assert_allclose(gradient, recorded[f"plusplus/{case}/grad"], rtol=1e-9)
        center = update_center(jnp.zeros(24), teacher.mean((0, 1)), 0.9)
        np.testing.assert_allclose(center, recorded[f"plusplus/{case}/center_after"], rtol=1e-12)


def test_without_a_mask_all_tokens_count_alike(recorded):
    with jax.enable_x64(True):
        weights = patch_weights(jnp.zeros((4, 1, 16), bool), jnp.float64, 1.0)
        np.testing.assert_allclose(weights, np.full((4, 1, 16), 1 / 64), rtol=1e-12)
