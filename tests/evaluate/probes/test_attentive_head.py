"""Attentive probes, against attention as it is written down, optax's AdamW, and a made task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ibot_jax.evaluate.probes import attentive_head
from ibot_jax.evaluate.probes.attentive_head import Probe, heads_of

WIDTH, CLASSES = 128, 5


def test_logits_are_those_of_attention_with_a_key_and_a_value_for_each_patch():
    """In NumPy, float64, and with a bias of keys, which changes nothing."""
    rng = np.random.default_rng(0)
    probe = Probe.start(WIDTH, CLASSES, jax.random.key(0))
    probe = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), probe)
    tokens = rng.normal(size=(3, 10, WIDTH)).astype(np.float32)
    own = jax.tree.map(np.float64, probe)
    keys = (tokens @ own.key + rng.normal(size=WIDTH)).reshape(3, 10, 2, 64)
    values = (tokens @ own.value + own.value_bias).reshape(3, 10, 2, 64)
    scores = np.einsum("hk,bnhk->bhn", own.query.reshape(2, 64), keys) / 8
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    pooled = np.einsum("bhn,bnhk->bhk", weights, values).reshape(3, WIDTH)
    expected = pooled @ own.kernel + own.bias
    np.testing.assert_allclose(probe(tokens), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1536, 24), (16, 1), (96, 1)]
)
def test_heads_have_64_entries_where_they_can(width, heads):
    assert heads_of(width) == heads


def test_each_probe_learns_as_adamw_would_teach_it_alone():
    rng = np.random.default_rng(1)
    rates, decays = np.float32([1e-3, 3e-2]), np.float32([0.1, 1e-3])
    state = attentive_head.make_start(8, 3, 2)(jax.random.key(3))
    first = state.probes
    batches = [
        (rng.normal(size=(6, 4, 8)).astype(np.float32), rng.integers(0, 3, 6)) for _ in range(3)
    ]
    step = jax.jit(attentive_head.train_step)
    for number, (tokens, labels) in enumerate(batches):
        state, _ = step(state, tokens, labels, rates / (number + 1), decays)
    for place in range(2):
        probe = jax.tree.map(lambda x, place=place: x[place], first)
        weights = jax.tree.map(lambda x: True, probe).replace(bias=False, value_bias=False)
        optimizer = optax.adamw(
            lambda count, place=place: rates[place] / (count + 1),
            b2=0.95,
            weight_decay=float(decays[place]),
            mask=weights,
        )
        moments = optimizer.init(probe)

        @jax.jit
        def learn(probe, moments, tokens, labels):
            def loss(probe):
                log_probs = jax.nn.log_softmax(probe(tokens))
                return -log_probs[jnp.arange(6), labels].mean()

            updates, moments = optimizer.update(jax.grad(loss)(probe), moments, probe)
            return optax.apply_updates(probe, updates), moments

        for tokens, labels in batches:
            probe, moments = learn(probe, moments, tokens, labels)
        jax.tree.map(
            lambda x, y, place=place: np.testing.assert_allclose(x[place], y, rtol=1e-4, atol=1e-6),
            state.probes,
            probe,
        )


def test_the_rate_rises_along_a_line_and_falls_along_a_cosine():
    expected = np.r_[np.linspace(0, 1, 12), (np.cos(np.linspace(0, np.pi, 108)) + 1) / 2]
    found = [attentive_head.rate(jnp.int32(step), 120, 12) for step in range(120)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_one_patch_of_many_shows_is_found():
    """The class is that of the patch that is marked; the others show any."""
    rng = np.random.default_rng(2)

    def draw(number):
        shown = rng.integers(0, 4, (number, 12))
        marked = rng.integers(0, 12, number)
        tokens = np.zeros((number, 12, 8), np.float32)
        np.put_along_axis(tokens, shown[..., None], 1, axis=2)
        tokens[np.arange(number), marked, 4] = 1
        return tokens, shown[np.arange(number), marked]

    state = attentive_head.make_start(8, 4, 2)(jax.random.key(0))
    step = jax.jit(attentive_head.train_step)
    for _ in range(300):
        state, _ = step(state, *draw(64), np.float32([3e-2, 1e-7]), np.float32([1e-3, 1e-3]))
    tokens, labels = draw(256)
    for place, least, most in ((0, 0.98, 1), (1, 0, 0.6)):
        probe = jax.tree.map(lambda x, place=place: x[place], state.probes)
        assert least <= np.mean(probe(tokens).argmax(axis=1) == labels) <= most
