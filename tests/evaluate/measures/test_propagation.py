"""Propagation of labels against a plain loop, and its memory of frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.evaluate.measures import propagation


def by_loops(memory, features, radius, top_k, temperature, circle=False):
    """The affinities of all pairs of patches, as the original writes it down, in float64."""
    frames = min(int(memory.frames), len(memory.features))
    height, width, _ = features.shape
    units = features / np.linalg.norm(features, axis=-1, keepdims=True)
    result = np.zeros((height, width, memory.labels.shape[-1]))
    for i in range(height):
        for j in range(width):
            weights, labels = [], []
            for s in range(frames):
                for k in range(height):
                    for m in range(width):
                        away = (i - k) ** 2 + (j - m) ** 2
                        if not circle:
                            away = max(abs(i - k), abs(j - m)) ** 2
                        if away <= radius**2:
                            cosine = units[i, j] @ np.asarray(memory.features[s, k, m], float)
                            weights.append(np.exp(cosine / temperature))
                            labels.append(np.asarray(memory.labels[s, k, m], float))
            weights = np.array(weights)
            least = np.sort(weights)[-min(top_k, len(weights))]
            weights[weights < least] = 0
            result[i, j] = weights @ np.array(labels) / weights.sum()
    return result


@pytest.mark.parametrize(
    ("frames", "radius", "top_k", "circle"),
    [(1, 1, 5, False), (3, 2, 3, False), (6, 12, 5, False), (6, 1, 1000, False), (6, 2, 9, True)],
)
def test_labels_are_those_of_the_most_similar_patches_near_by(frames, radius, top_k, circle):
    rng = np.random.default_rng(frames)
    height, width, num_labels = 4, 6, 3

    def features():
        return rng.normal(size=(height, width, 5)).astype(np.float32)

    def labels():
        return rng.dirichlet(np.ones(num_labels), (height, width)).astype(np.float32)

    memory = propagation.remember_first(features(), labels(), last_frames=3)
    for _ in range(frames - 1):
        memory = propagation.remember(memory, features(), labels())
    target = features()
    settings = dict(radius=radius, top_k=top_k, temperature=0.1, circle=circle)
    found = jax.jit(lambda m, t: propagation.propagate(m, t, **settings))(memory, target)
    np.testing.assert_allclose(found, by_loops(memory, target, **settings), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_the_first_frame_and_the_last_ones_are_remembered():
    def frame(number):
        return jnp.full((1, 1, 2), number, jnp.float32)

    memory = propagation.remember_first(frame(1), frame(1), last_frames=2)
    for number in range(2, 6):
        memory = propagation.remember(memory, frame(number), frame(number))
        kept = set(np.asarray(memory.labels[:, 0, 0, 0]).tolist())
        assert kept == {1, number, max(number - 1, 0) if number > 2 else 0}
    np.testing.assert_allclose(jnp.linalg.norm(memory.features, axis=-1), 1, atol=1e-6)


def test_the_decision_is_by_interpolated_shares_stretched_over_the_frame():
    """A faint object wins at its brightest place; where nothing is told, it is background."""
    labels = np.zeros((1, 4, 2), np.float32)
    labels[0, :, 1] = [0, 0, 0, 0.1]
    labels[..., 0] = 1 - labels[..., 1]
    found = propagation.decide(jnp.asarray(labels), (2, 8))
    # Shares of the object, interpolated: 0 0 0 0 0 .025 .075 .1; stretched: .25 .75 1.
    np.testing.assert_array_equal(found, [[0, 0, 0, 0, 0, 0, 1, 1]] * 2)
    constant = jnp.ones((2, 2, 1))
    np.testing.assert_array_equal(propagation.decide(constant, (8, 8)), np.zeros((8, 8)))
