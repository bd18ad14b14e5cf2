"""Gram anchoring against the recorded values and gradients of DINOv3's, and as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.losses.gram import gram_loss, resize_patches

NEGATIVES = {"keep": "keep", "remove": "drop", "teacher_only": "drop_teacher"}


@pytest.fixture(scope="module")
def recorded(reference):
    return np.load(reference("dino_losses.npz"))


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def both(student, teacher, used=None, **options):
    loss = lambda student: gram_loss(student, jnp.asarray(teacher), used, **options)  # noqa: E731
    return jax.value_and_grad(loss)(jnp.asarray(student))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("level", ["image", "batch"])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_it_is_the_recorded_one(recorded, normalize, level, negatives):
    key = f"gram/normalized={normalize},img_level={level == 'image'},negatives={negatives}"
    options = dict(level=level, negatives=NEGATIVES[negatives], normalize=normalize)
    loss, gradient = both(recorded["gram/student"], recorded["gram/teacher"], **options)
    np.testing.assert_allclose(loss, recorded[key], rtol=1e-12)
    np.testing.assert_allclose(gradient, recorded[f"{key}/grad"], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tokens", ["masked", "unmasked"])
def test_of_masked_tokens_alone_or_of_the_others(recorded, normalize, tokens):
    key = f"gram/normalized={normalize},img_level=False,tokens={tokens}"
    mask = recorded["gram/mask"]
    used = jnp.asarray(mask if tokens == "masked" else ~mask)
    options = dict(level="batch", normalize=normalize)
    loss, gradient = both(recorded["gram/student"], recorded["gram/teacher"], used, **options)
    np.testing.assert_allclose(loss, recorded[key], rtol=1e-12)
    np.testing.assert_allclose(gradient, recorded[f"{key}/grad"], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("antialias", [False, True])
def test_tokens_are_resized_as_recorded(recorded, antialias):
    large = jnp.asarray(recorded["gram/resize/tokens_8x8"]).reshape(2, 8, 8, 6)
    found = resize_patches(large, (4, 4), antialias).reshape(2, 16, 6)
    key = f"gram/resize/tokens_4x4,antialias={antialias}"
    np.testing.assert_allclose(found, recorded[key], rtol=1e-12, atol=1e-13)
    assert resize_patches(large, (8, 8)) is large


def test_it_compares_likenesses_and_no_tokens():
    """Rotated tokens, longer ones and ones of another width are as alike as before."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3, 5, 4))
    turned = 3 * tokens @ np.linalg.qr(rng.normal(size=(7, 7)))[0][:4]
    assert gram_loss(jnp.asarray(turned), jnp.asarray(tokens)) < 1e-28
    other = rng.normal(size=(3, 5, 4))
    expected = []
    for view, another in zip(tokens, other, strict=True):
        for i in range(5):
            for j in range(5):
                cosines = [
                    x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
                    for x in (view, another)
                ]
                expected.append((cosines[0] - cosines[1]) ** 2)
    np.testing.assert_allclose(both(tokens, other)[0], np.mean(expected), rtol=1e-12)


def test_no_token_and_tokens_of_no_length_give_no_gradient_that_is_not_finite():
    zeros = jnp.zeros((2, 3, 4))
    for used in (None, jnp.zeros((2, 3), bool)):
        loss, gradient = both(zeros, zeros + 1, used, level="batch")
        assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert loss == 0
