"""Views as networks see them, and whose tokens are whose, with a backbone that tells its inputs."""

import jax.numpy as jnp
import numpy as np
import pytest
from sums import Sums

from ibot_jax.methods import views

RNG = np.random.default_rng(0)
B, G, L = 3, 2, 4
GLOBAL = RNG.integers(0, 256, (B, G, 4, 6, 3), dtype=np.uint8)
LOCAL = RNG.integers(0, 256, (B, L, 2, 2, 3), dtype=np.uint8)
MASKS = RNG.random((B, G, 2, 3)) < 0.5
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


def make(batch, dtype=jnp.float32):
    def brighter(pixels, colors):
        return (pixels // 2 + colors[..., 0, None, None, None]).astype(np.uint8)

    return views.make_views(batch, mean=MEAN, std=STD, dtype=dtype, apply_colors=brighter)


def normalized(pixels):
    return (pixels / 255 - np.array(MEAN)) / np.array(STD)


def test_views_are_normalised_by_channel():
    found = make({"global_views": jnp.array(GLOBAL), "local_views": jnp.array(LOCAL), "masks": 5})
    np.testing.assert_allclose(found.global_views, normalized(GLOBAL), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.local_views, normalized(LOCAL), rtol=1e-5, atol=1e-6)
    assert found.masks == 5 and found.gains is None


def test_colours_that_come_with_a_batch_are_changed_first():
    colors = {kind: np.arange(B * v * 12).reshape(B, v, 12) for kind, v in (("g", G), ("l", L))}
    batch = {
        **{"global_views": jnp.array(GLOBAL), "global_colors": jnp.array(colors["g"])},
        **{"local_views": jnp.array(LOCAL), "local_colors": jnp.array(colors["l"])},
        **{"masks": MASKS, "gains": 7},
    }
    found = make(batch, jnp.bfloat16)
    for view, pixels, color in (
        (found.global_views, GLOBAL, colors["g"]),
        (found.local_views, LOCAL, colors["l"]),
    ):
        changed = (pixels // 2 + color[..., :1, None, None]).astype(np.uint8)
        assert view.dtype == jnp.bfloat16
        np.testing.assert_allclose(view.astype(np.float32), normalized(changed), rtol=1e-2)
    assert found.gains == 7


@pytest.mark.parametrize("local_views", [0, L])
@pytest.mark.parametrize("with_gains", [False, True])
def test_the_students_tokens_are_of_masked_global_and_of_whole_local_views(local_views, with_gains):
    whole, local = GLOBAL.astype(np.float32), LOCAL[:, :local_views].astype(np.float32)
    gains = RNG.random((B, G + local_views, 5, 2)).astype(np.float32)
    given = views.Views(
        *map(jnp.array, (whole, local, MASKS)), jnp.array(gains) if with_gains else None
    )
    tokens, cls = views.student_tokens(Sums(), {"backbone": 2.0, "head": None}, given)
    expected = np.concatenate([x.sum((2, 3)) for x in (whole, local)], axis=1) * 2
    if with_gains:
        expected = expected + gains.sum((2, 3))[..., None]
    assert cls.shape == (B, G + local_views, 3)
    np.testing.assert_allclose(cls, expected, rtol=1e-6)
    np.testing.assert_allclose(tokens.cls, expected[:, :G].reshape(B * G, 3), rtol=1e-6)
    patches = np.where(MASKS[..., None], -1, whole[:, :, ::2, ::2])
    np.testing.assert_array_equal(tokens.patches, patches.reshape(B * G, 2, 3, 3))
    np.testing.assert_array_equal(views.by_view(tokens.patches, given.global_views), patches)


@pytest.mark.parametrize("noise", [None, {"global": 1, "local": 2}])
def test_the_student_is_told_which_views_are_local_and_how_positions_move(noise):
    told = []

    class Listening(Sums):
        def tokens(self, variables, images, masks=None, gains=None, **training):
            told.append(training)
            return super().tokens(variables, images, masks, gains)

    given = views.Views(*map(jnp.array, (GLOBAL, LOCAL, MASKS)), None, noise)
    views.student_tokens(Listening(), {"backbone": 2.0, "head": None}, given)
    expected = [{"local": False}, {"local": True}]
    if noise:
        expected = [e | {"rope_noise": number} for e, number in zip(expected, (1, 2), strict=True)]
    assert told == expected
    views.tokens_of(Listening(), {"backbone": 2.0}, given.global_views)
    assert told[2:] == [{}]  # whole views, as the teacher sees them
