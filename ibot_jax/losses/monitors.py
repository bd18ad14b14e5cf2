"""What tells learning from collapse: entropies of targets, and how views and networks differ."""

import jax
import jax.numpy as jnp

from ibot_jax.losses import prototypes

Array = jax.Array


def entropy(probs: Array, over: str | None = None) -> Array:
    """Entropy in nats over the last axis: [..., K] probabilities to [...]."""
    return -prototypes.total(jax.scipy.special.xlogy(probs, probs), over)


def entropy_of_logits(logits: Array, over: str | None = None) -> Array:
    """Entropy in nats of softmax(logits) over the last axis, which is never written to memory."""
    log_probs = logits - prototypes.logsumexp(logits, over)[..., None]
    return -prototypes.total(jnp.exp(log_probs) * log_probs, over)


def views_kl(targets: Array, over: str | None = None) -> Array:
    """How differently the teacher sees an image's views: the mean KL(p_i || p_j) of their targets.

    Over all ordered pairs of different views, that is the covariance of p and log p over the
    views, summed over the prototypes.

    Args:
      targets: [B, G, K] teacher probabilities; those below the smallest normal number count as it.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [B] in nats; 0 where G is 1.
    """
    log_probs = jnp.log(jnp.maximum(targets, jnp.finfo(targets.dtype).tiny))
    spread = targets - targets.mean(axis=1, keepdims=True)
    return prototypes.total(spread * log_probs, over).sum(axis=1) / max(targets.shape[1] - 1, 1)


def same_choice(student_logits: Array, targets: Array, over: str | None = None) -> Array:
    """Returns in how many of an image's global views student and teacher choose the same prototype.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [B] shares of the G views.
    """
    chosen = prototypes.argmax(student_logits[:, : targets.shape[1]], over)
    return (chosen == prototypes.argmax(targets, over)).mean(axis=1, dtype=targets.dtype)
