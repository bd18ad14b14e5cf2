"""A bank of labelled patches against NumPy, however it is spread and cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.special import softmax

from ibot_jax.errors import UserError
from ibot_jax.evaluate.probes import patch_bank
from ibot_jax.evaluate.probes.kept import Kept
from ibot_jax.evaluate.probes.patch_bank import PatchBank
from ibot_jax.parallel.layouts import batch_sharding
from ibot_jax.parallel.mesh import make_mesh


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def nearest_votes(features, counts, tokens, k, temperature):
    """What each token is told by its nearest, in NumPy."""
    known = counts.any(-1)
    features, shares = features[known], counts[known] / counts[known].sum(-1, keepdims=True)
    cosine = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) @ features.T
    order = np.argsort(-cosine, axis=-1)[..., :k]
    weights = softmax(np.take_along_axis(cosine, order, -1) / temperature, axis=-1)
    return np.einsum("...k,...kc->...c", weights, shares[order])


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in chunks and blocks"])
@pytest.mark.parametrize("devices", [1, 8])
def test_votes_are_those_of_the_nearest_by_cosine(monkeypatch, rng, devices, cut):
    """8 devices have 6 patches each, fewer than vote; one in three has no pixel of a class."""
    if cut:
        monkeypatch.setattr(patch_bank, "_MAX_ROWS", 5)
        monkeypatch.setattr(patch_bank, "_MAX_ENTRIES", 3 * 8)
    features = rng.normal(size=(8, 2, 3, 6)).astype(np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    counts = rng.integers(0, 9, (8, 2, 3, 4)).astype(np.uint16)
    counts[rng.random((8, 2, 3)) < 1 / 3] = 0
    tokens = 3 * rng.normal(size=(2, 2, 5, 6)).astype(np.float32)
    mesh = make_mesh(jax.devices()[:devices])
    bank = jax.device_put(PatchBank(features, counts), batch_sharding(mesh))
    tell = functools.partial(patch_bank.votes, k=8, temperature=0.2, mesh=mesh)
    found = jax.jit(tell)(bank, jax.device_put(tokens, NamedSharding(mesh, PartitionSpec())))
    expected = nearest_votes(features.reshape(-1, 6), counts.reshape(-1, 4), tokens, 8, 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_patches_of_rare_classes_come_first(rng):
    """Scores by hand, with the numbers that are drawn; patches of no class last."""
    counts = rng.integers(0, 2, (3, 20, 4)) * rng.integers(1, 9, (3, 20, 4))
    counts[:, ::7] = 0
    key = jax.random.key(1)
    found = patch_bank.draw_patches(key, jnp.asarray(counts, jnp.float32), 18)
    drawn = np.asarray(jax.random.uniform(key, (3, 20)))
    for image in range(3):
        shown = counts[image] > 0
        often = shown.sum(0)
        scores = np.array([often[patch].sum() for patch in shown]) * drawn[image]
        scores[~shown.any(1)] = np.inf
        np.testing.assert_array_equal(found[image], np.argsort(scores, kind="stable")[:18])


def test_patches_are_remembered_image_by_image_and_kept(rng, tmp_path, monkeypatch):
    """Three batches of 8, the last one of 5: all patches of each image, and none of what fills.

    What was kept before an interruption is not computed again.
    """
    monkeypatch.setattr(patch_bank, "PART", 2)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (24, 8, 8))
    valid = np.arange(24) < 21
    asked = []

    def batches(done):
        asked.append(done)
        for i in range(8 * done, 24, 8):
            own = slice(i, i + 8)
            yield {"images": images[own], "labels": labels[own], "valid": valid[own]}

    def means(scale, images):
        return scale * images.astype(jnp.float32).reshape(-1, 2, 4, 2, 4, 3).mean((2, 4))

    options = dict(per_image=4, num_classes=3, seed=0, dtype="float32", mesh=make_mesh())

    def fill(**changed):
        shape = jax.ShapeDtypeStruct((8, 8, 8, 3), np.uint8)

        def kept(step):
            return Kept(str(tmp_path), str(step), {})

        return patch_bank.fill(means, jnp.float32(2), batches, 3, shape, kept, **options | changed)

    bank = fill()
    assert asked == [0] and len(list(tmp_path.iterdir())) == 2
    next(tmp_path.glob("2-*")).unlink()
    for _ in range(2):  # the second time nothing is left to compute
        jax.tree.map(np.testing.assert_array_equal, fill(), bank)
        assert asked == [0, 2]
    with pytest.raises(UserError, match="is damaged .arrays of other shapes."):
        fill(per_image=3)
    assert bank.features.shape == (8, 3, 4, 3) and bank.counts.shape == (8, 3, 4, 3)
    assert patch_bank.bank_bytes(3, 8, 4, 3, 3, "float32") == sum(x.nbytes for x in bank)
    patches = images.reshape(24, 2, 4, 2, 4, 3).mean((2, 4)).reshape(24, 4, 3)
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    of_patches = labels.reshape(24, 2, 4, 2, 4).swapaxes(2, 3).reshape(24, 4, 16)
    for number in range(24):
        features, counts = (np.asarray(x[number % 8, number // 8]) for x in bank)
        if not valid[number]:
            assert not counts.any()
            continue
        # In whatever order.
        cosine = features @ patches[number].T
        order = cosine.argmax(1)
        assert sorted(order) == [0, 1, 2, 3]
        np.testing.assert_allclose(features, patches[number, order], atol=1e-5)
        expected = [[(of_patches[number, p] == c).sum() for c in range(3)] for p in order]
        np.testing.assert_array_equal(counts, expected)
