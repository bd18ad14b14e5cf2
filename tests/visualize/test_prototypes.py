"""The best tokens of each prototype: those of a search by hand over all at once."""

import jax
import numpy as np
import pytest
from planted import color_model, looking_model
from tiny import tiny_config

from ibot_jax.parallel.layouts import replicated
from ibot_jax.parallel.mesh import make_mesh
from ibot_jax.visualize import prototypes
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model


@pytest.fixture(scope="module")
def mesh():
    return make_mesh()


@pytest.fixture(scope="module")
def random_model(mesh):
    """A model with a last layer for patches of its own, whose prototypes are fewer."""
    config = tiny_config(
        head__shared=False, head__shared_teacher=False, head__patch_prototypes=7, model__depth=1
    )
    model, params = untrained(Model(config, "random"), head=True)
    return model, jax.device_put(params, replicated(mesh))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("patch", 7), ("class", 12)])
def test_one_pass_in_batches_finds_what_a_search_over_all_finds(random_model, mesh, kind, number):
    model, params = random_model
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    valid = rng.random(40) > 0.2
    batches = [
        {"images": images[i : i + 8], "valid": valid[i : i + 8], "labels": np.zeros(8, np.int32)}
        for i in range(0, 40, 8)
    ]
    best = prototypes.find_best(model, params, batches, mesh, kind=kind, k=5, temperature=0.1)

    tokens = model.tokens(params, images)
    tokens = tokens[:, 1:] if kind == "patch" else tokens[:, :1]
    logits = np.asarray(model.logits(params, tokens)[kind == "patch"], np.float64) / 0.1
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)  # [40, n, K]
    of_images = np.where(valid[:, None], shares.max(axis=1), -1)  # [40, K]
    order = np.argsort(-of_images, axis=0)[:5].T  # [K, 5]
    assert best.image.shape == (number, 5)
    np.testing.assert_allclose(best.confidence, np.sort(-of_images, axis=0)[:5].T * -1, rtol=1e-3)
    np.testing.assert_array_equal(best.image, order)
    patches = shares.argmax(axis=1)
    np.testing.assert_array_equal(best.patch, patches[order, np.arange(number)[:, None]])
    means = np.sort(-of_images, axis=0)[:5].mean(axis=0)
    np.testing.assert_array_equal(best.surest(3), np.argsort(means)[:3])


def test_too_few_images_leave_places_empty(mesh):
    model, params = color_model()
    batch = {"images": np.zeros((8, 16, 16, 3), np.uint8), "valid": np.arange(8) < 2}
    best = prototypes.find_best(model, params, [batch], mesh, kind="patch", k=3, temperature=1.0)
    np.testing.assert_allclose(best.confidence[:, :2], 1 / 3, rtol=1e-5)  # black: any prototype
    np.testing.assert_array_equal(best.confidence[:, 2], -1)


def test_batches_are_small_where_prototypes_are_many():
    model, _ = looking_model(head__prototypes=2**17, head__patch_prototypes=2**17)
    for devices in (1, 8):
        images = prototypes.batch_size(model, "patch", 64, devices)
        assert images % devices == 0
        assert images // devices * 64 * 2**17 <= 2**25
        assert prototypes.batch_size(model, "class", 64, devices) == 64 * devices
    assert prototypes.batch_size(model, "patch", 1024, 8) == 8  # one image is the least
