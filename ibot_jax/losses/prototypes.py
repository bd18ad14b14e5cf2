"""Sums, maxima and softmax over the prototypes, which may be spread over a mesh axis.

Where prototypes lie over the axis `over`, in manual control of it (`parallel.tensor`), K are this
device's, and what is summed over them is summed over the axis, too: results are the same on all its
devices, those by prototype apart. With None, K are all.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def total(x: Array, over: str | None) -> Array:
    """Sums [..., K] over the prototypes."""
    of_device = x.sum(axis=-1)
    return of_device if over is None else jax.lax.psum(of_device, over)


def largest(x: Array, over: str | None) -> Array:
    """Returns the largest of [..., K] over the prototypes, without gradient."""
    of_device = jax.lax.stop_gradient(x.max(axis=-1))
    return of_device if over is None else jax.lax.pmax(of_device, over)


def logsumexp(logits: Array, over: str | None) -> Array:
    """Returns log(sum(exp(logits))) over the prototypes, [..., K] to [...]."""
    if over is None:
        return jax.nn.logsumexp(logits, axis=-1)
    highest = largest(logits, over)
    return jnp.log(total(jnp.exp(logits - highest[..., None]), over)) + highest


def softmax(logits: Array, over: str | None) -> Array:
    """Returns the probabilities of the prototypes, [..., K], without gradient."""
    if over is None:
        return jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))
    exps = jnp.exp(logits - largest(logits, over)[..., None])
    return jax.lax.stop_gradient(exps / total(exps, over)[..., None])


def argmax(x: Array, over: str | None) -> Array:
    """Returns which of all prototypes is the largest, the first of equal ones."""
    chosen = x.argmax(axis=-1)
    if over is None:
        return chosen
    number = jax.lax.axis_size(over) * x.shape[-1]
    chosen += jax.lax.axis_index(over) * x.shape[-1]
    return jax.lax.pmin(jnp.where(x.max(axis=-1) == largest(x, over), chosen, number), over)
