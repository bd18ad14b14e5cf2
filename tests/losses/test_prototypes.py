"""Losses and monitors of prototypes over four devices are those of NumPy on all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import Mesh, PartitionSpec

from ibot_jax.losses import centering, class_tokens, monitors, patches, prototypes

B, G, V, K = 5, 2, 3, 16
OVER = "tensor"
RNG = np.random.default_rng(0)
# Far from 0, so that what is not shifted by the largest overflows.
STUDENT = RNG.normal(size=(B, V, K)).astype(np.float32) * 3 + 200
TARGETS = scipy.special.softmax(RNG.normal(size=(B, G, K)) * 3, axis=-1).astype(np.float32)
PATCHES, WEIGHTS = STUDENT.reshape(-1, K), RNG.random(B * V).astype(np.float32)
PATCH_TARGETS = scipy.special.softmax(RNG.normal(size=(B * V, K)), axis=-1).astype(np.float32)


def spread(function, *arrays, out=None):
    """Runs a function of arrays [..., K] with a fourth of the last axis on each device."""
    mesh = Mesh(np.array(jax.devices()[:4]), (OVER,))
    specs = tuple(PartitionSpec(*[None] * (x.ndim - 1), OVER) for x in arrays)
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out or PartitionSpec())
    )(*arrays)


def log_probs(logits):
    return scipy.special.log_softmax(logits.astype(np.float64), axis=-1)


def class_by_hand():
    log = log_probs(STUDENT / 0.1)
    pairs = [(g, v) for g in range(G) for v in range(V) if g != v]
    return -sum((TARGETS[:, g] * log[:, v]).sum(-1) for g, v in pairs) / len(pairs)


def kl_by_hand():
    p, q = (TARGETS[:, g].astype(np.float64) for g in (0, 1))
    return ((p - q) * (np.log(p) - np.log(q))).sum(-1) / 2


SUMMED = {
    "total": (lambda x: prototypes.total(x, OVER), (STUDENT,), STUDENT.sum(-1, dtype=float)),
    "largest": (lambda x: prototypes.largest(x, OVER), (STUDENT,), STUDENT.max(-1)),
    "logsumexp": (
        lambda x: prototypes.logsumexp(x, OVER),
        (STUDENT,),
        scipy.special.logsumexp(STUDENT.astype(float), axis=-1),
    ),
    "argmax": (lambda x: prototypes.argmax(x, OVER), (STUDENT,), STUDENT.argmax(-1)),
    "argmax of equal ones": (
        lambda x: prototypes.argmax(x, OVER),
        (np.tile(np.float32([0, 2, 1, 2]), (3, 4)),),
        [1, 1, 1],
    ),
    "class loss": (
        lambda x, t: class_tokens.class_loss(x, t, 0.1, OVER),
        (STUDENT, TARGETS),
        class_by_hand(),
    ),
    "patch loss": (
        lambda x, t: patches.patch_loss(x, t, WEIGHTS, 0.1, OVER),
        (PATCHES, PATCH_TARGETS),
        -(WEIGHTS * (PATCH_TARGETS * log_probs(PATCHES / 0.1)).sum(-1)).sum(),
    ),
    "entropy": (
        lambda t: monitors.entropy(t, OVER),
        (TARGETS,),
        scipy.special.entr(TARGETS.astype(float)).sum(-1),
    ),
    "entropy of logits": (
        lambda x: monitors.entropy_of_logits(x, OVER),
        (STUDENT,),
        scipy.special.entr(np.exp(log_probs(STUDENT))).sum(-1),
    ),
    "views' KL": (lambda t: monitors.views_kl(t, OVER), (TARGETS,), kl_by_hand()),
    "same choice": (
        lambda x, t: monitors.same_choice(x, t, OVER),
        (STUDENT, TARGETS),
        (STUDENT[:, :G].argmax(-1) == TARGETS.argmax(-1)).mean(1),
    ),
}


@pytest.mark.parametrize("name", SUMMED)
def test_sums_over_prototypes_are_over_those_of_all_devices(name):
    function, arrays, expected = SUMMED[name]
    np.testing.assert_allclose(spread(function, *arrays), expected, rtol=2e-4)


def test_targets_are_centered_and_sharpened_over_all_devices():
    logits, center = STUDENT[:, :G], np.linspace(-1, 1, K, dtype=np.float32)
    expected = scipy.special.softmax((logits.astype(float) - center) / 0.05, axis=-1)
    found = spread(
        lambda x, center: centering.teacher_probs(x, center, jnp.float32(0.05), OVER),
        logits,
        center,
        out=PartitionSpec(None, None, OVER),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["class loss", "patch loss"])
def test_gradients_are_those_of_all_prototypes_on_one_device(name):
    function, (logits, targets), _ = SUMMED[name]
    alone = {
        "class loss": lambda x: class_tokens.class_loss(x, targets, 0.1).sum(),
        "patch loss": lambda x: patches.patch_loss(x, targets, WEIGHTS, 0.1),
    }[name]
    spec = PartitionSpec(*[None] * (logits.ndim - 1), OVER)
    found = spread(jax.grad(lambda x, t: function(x, t).sum()), logits, targets, out=spec)
    np.testing.assert_allclose(found, jax.grad(alone)(logits), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("over", [None, OVER])
def test_no_gradient_flows_into_targets_or_maxima(over):
    def loss(x):
        probs = centering.teacher_probs(x, jnp.zeros(x.shape[-1]), 0.1, over)
        return (probs * jnp.arange(x.shape[-1])).sum() + prototypes.largest(x, over).sum()

    if over is None:
        gradient = jax.grad(loss)(STUDENT)
    else:
        gradient = spread(jax.grad(loss), STUDENT, out=PartitionSpec(None, None, OVER))
    assert gradient.shape == STUDENT.shape and not np.any(gradient)
