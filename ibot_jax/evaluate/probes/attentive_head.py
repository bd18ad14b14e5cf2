"""Attentive probes: one learned query attends to frozen patch tokens, and a linear layer follows.

Many at once, as pure functions of stacked parameters. Shape letters: S probes, B images, N patches,
D width of a token, H heads, C classes.
"""

import math
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

Array = jax.Array

_HEAD_WIDTH = 64
_INIT_STD = 0.02
_BETAS = (0.9, 0.95)  # of Adam


@flax.struct.dataclass
class Probe:
    """A probe, or a stack of them [S, ...].

    Keys have no bias: the same number for all patches, it would change nothing.

    Attributes:
      query: [D], its heads one after the other.
      key: [D, D].
      value: [D, D].
      value_bias: [D].
      kernel: [D, C].
      bias: [C].
    """

    query: Array
    key: Array
    value: Array
    value_bias: Array
    kernel: Array
    bias: Array

    @classmethod
    def start(cls, width: int, num_classes: int, key: Array) -> "Probe":
        """Returns a probe before training: weights normal with deviation 0.02, biases 0."""
        shapes = dict(
            query=(width,), key=(width, width), value=(width, width), kernel=(width, num_classes)
        )
        keys = jax.random.split(key, len(shapes))
        drawn = {
            name: _INIT_STD * jax.random.normal(own, shape)
            for own, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return cls(**drawn, value_bias=jnp.zeros(width), bias=jnp.zeros(num_classes))

    def __call__(self, tokens: Array) -> Array:
        """Returns the logits [B, C] of images by their patch tokens [B, N, D], float32."""
        width = tokens.shape[-1]
        heads = heads_of(width)
        query = self.query.reshape(heads, -1)
        key, value = (x.reshape(width, heads, -1) for x in (self.key, self.value))
        # Of one query, keys and values need not be formed for each patch: a head's cosine is a
        # projection of the token, and its value that of the mean token.
        towards = jnp.einsum("hk,dhk->dh", query, key, precision="highest")
        scores = jnp.einsum("bnd,dh->bnh", tokens, towards, precision="highest")
        weights = jax.nn.softmax(scores / math.sqrt(width // heads), axis=1)
        means = jnp.einsum("bnh,bnd->bhd", weights, tokens, precision="highest")
        pooled = jnp.einsum("bhd,dhk->bhk", means, value, precision="highest")
        pooled = pooled.reshape(len(tokens), width) + self.value_bias
        return jnp.matmul(pooled, self.kernel, precision="highest") + self.bias


def heads_of(width: int) -> int:
    """Returns how many heads tokens of a width have, each of 64 entries where that divides it."""
    return math.gcd(width, max(width // _HEAD_WIDTH, 1))


class State(NamedTuple):
    """Stacked probes, Adam's moments and the number of steps done."""

    probes: Probe
    moments: optax.OptState
    step: Array


def make_start(width: int, num_classes: int, number: int):
    """Returns the function from a key to the first state of so many probes, each of its own."""

    def start(key: Array) -> State:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
        probes = jax.vmap(lambda own: Probe.start(width, num_classes, own))(keys)
        return State(probes, optax.scale_by_adam(*_BETAS).init(probes), jnp.int32(0))

    return start


def train_step(
    state: State, tokens: Array, labels: Array, rates: Array, decays: Array
) -> tuple[State, Array]:
    """Takes a step of AdamW with all probes.

    Args:
      state: before it.
      tokens: [B, N, D] float32.
      labels: [B] int.
      rates: [S], learning rates of this step.
      decays: [S], weight decay of what is no bias.

    Returns:
      The state after it, and the cross-entropies [S].
    """

    def total(probes):
        logits = jax.vmap(lambda probe: probe(tokens))(probes)  # [S, B, C]
        wanted = jnp.broadcast_to(labels, logits.shape[:2])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, wanted).mean(1)
        return losses.sum(), losses  # no probe's loss depends on another's parameters

    gradients, losses = jax.grad(total, has_aux=True)(state.probes)
    updates, moments = optax.scale_by_adam(*_BETAS).update(gradients, state.moments)

    def moved(path, x, update):
        decay = 0.0 if "bias" in path[-1].name else decays.reshape(-1, *[1] * (x.ndim - 1))
        return x - rates.reshape(-1, *[1] * (x.ndim - 1)) * (update + decay * x)

    probes = jax.tree_util.tree_map_with_path(moved, state.probes, updates)
    return State(probes, moments, state.step + 1), losses


def rate(step: Array, steps: int, warmup: int) -> Array:
    """Returns the share of the learning rate: it rises along a line, and falls along a cosine.

    Args:
      step: from 0 to steps - 1.
      steps: of the training.
      warmup: first steps, in which it rises from 0 to 1.
    """
    rising = step / max(warmup - 1, 1)
    falling = (1 + jnp.cos(jnp.pi * (step - warmup) / max(steps - warmup - 1, 1))) / 2
    return jnp.where(step < warmup, rising, falling)
