"""Patch-kernel alignment against recorded values and gradients, and its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.patch_kernels import patch_kernel_loss


@pytest.fixture(scope="module")
def recorded(reference):
    return np.load(reference("dino_losses.npz"))


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("case", ["all", "ignored_left_out", "constant_student"])
def test_it_is_the_recorded_one(recorded, case):
    student, teacher = (jnp.asarray(recorded[f"paka/{name}"]) for name in ("student", "teacher"))
    used = jnp.asarray(~recorded["paka/ignored"]) if case == "ignored_left_out" else None
    if case == "constant_student":
        student = jnp.ones_like(student)
    loss, gradient = jax.value_and_grad(patch_kernel_loss)(student, teacher, used)
    np.testing.assert_allclose(loss, recorded[f"paka/{case}"], rtol=1e-12)
    np.testing.assert_allclose(gradient, recorded[f"paka/{case}/grad"], rtol=1e-10, atol=1e-13)


def test_it_is_one_minus_the_alignment_of_centred_kernels():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 6, 9))
    used = rng.random((3, 6)) < 0.7
    used[2] = np.arange(6) == 1  # of one token nothing is told: that view does not count
    expected = []
    for view in range(2):
        centre = np.eye(used[view].sum()) - 1 / used[view].sum()
        kernels = [
            centre @ x @ x.T @ centre
            for x in (student[view][used[view]], teacher[view][used[view]])
        ]
        norms = [np.linalg.norm(kernel) for kernel in kernels]
        expected.append(1 - (kernels[0] * kernels[1]).sum() / norms[0] / norms[1])
    found = patch_kernel_loss(*map(jnp.asarray, (student, teacher, used)))
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-12)
    assert patch_kernel_loss(*map(jnp.asarray, (student, teacher, used & False))) == 0
    turned = 3 * student @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 5
    assert abs(patch_kernel_loss(jnp.asarray(student), jnp.asarray(turned))) < 1e-12
