"""The two self-distillation losses, their centers and temperatures (paper, section 3.2); monitors.

All arrays are float32 (float64 in parity runs). Shape letters: B batch, G global views, V all
views of the student (the global ones first), N patch tokens of a view, T patch tokens of any
views, K prototypes.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def teacher_probs(logits: Array, center: Array, temperature: Array) -> Array:
    """Centers and sharpens the teacher's outputs into targets.

    Args:
      logits: [..., K].
      center: [K], of before this step.
      temperature: scalar.

    Returns:
      [..., K] probabilities, without gradient.
    """
    return jax.lax.stop_gradient(jax.nn.softmax((logits - center) / temperature, axis=-1))


def class_loss(student_logits: Array, targets: Array, student_temp: float) -> Array:
    """Cross-view distillation of class tokens: L_[CLS] of equation 3, image by image.

    The cross-entropy, averaged over all pairs of a teacher's global view and another view of the
    student.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.
      student_temp: the student's temperature.

    Returns:
      [B]; the loss is its mean.
    """
    logits = student_logits / student_temp
    # Cross-entropy as logsumexp minus dot product: no table of student log-probabilities.
    normalizer = jax.nn.logsumexp(logits, axis=-1)  # [B, V]
    agreement = jnp.einsum("bgk,bvk->bgv", targets, logits, precision="highest")
    cross_entropy = normalizer[:, None] - agreement  # [B, G, V]
    num_global, num_views = cross_entropy.shape[1:]
    other_view = 1 - jnp.eye(num_global, num_views)
    return (cross_entropy * other_view).sum(axis=(1, 2)) / (num_global * (num_views - 1))


def patch_weights(masks: Array, dtype: jnp.dtype) -> Array:
    """What each patch token weighs in the patch loss.

    Each view's tokens are averaged over its masked ones (a view without masks counts as 0), then
    views over batch and global views.

    Args:
      masks: [B, G, N] bool.
      dtype: of the result.

    Returns:
      [B, G, N], 0 where not masked.
    """
    masks = masks.astype(dtype)
    counts = masks.sum(axis=-1, keepdims=True)
    return masks / jnp.maximum(counts, 1) / (masks.shape[0] * masks.shape[1])


def patch_loss(student_logits: Array, targets: Array, weights: Array, student_temp: float) -> Array:
    """Masked image modelling against the online tokenizer: L_MIM of equation 2.

    Args:
      student_logits: [T, K] of masked tokens.
      targets: [T, K] teacher probabilities of the same tokens of the unmasked view.
      weights: [T] of `patch_weights`.
      student_temp: the student's temperature.

    Returns:
      Scalar.
    """
    logits = student_logits / student_temp
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - (targets * logits).sum(axis=-1)
    return (weights * cross_entropy).sum()


def update_center(center: Array, batch_mean: Array, momentum: float) -> Array:
    """Moves a center [K] towards the mean of the teacher's raw outputs [K] of this step."""
    return center * momentum + batch_mean * (1 - momentum)


def teacher_temperature(
    epoch: Array, start: float, final: float, warmup_epochs: int, wait_epochs: int = 0
) -> Array:
    """The original's teacher temperature: constant within an epoch.

    Args:
      epoch: floating scalar, from 0.
      start: the value during `wait_epochs` and in the first epoch of the warm-up.
      final: the value in the last epoch of the warm-up and from there on.
      warmup_epochs: length of the linear warm-up, both ends included.
      wait_epochs: epochs before the warm-up.

    Returns:
      Scalar.
    """
    warm = epoch - wait_epochs
    progress = jnp.clip(warm / max(warmup_epochs - 1, 1), 0, 1)
    return jnp.where(warm < warmup_epochs, start + (final - start) * progress, final)


def entropy(probs: Array) -> Array:
    """Entropy in nats over the last axis: [..., K] probabilities to [...]."""
    return -jax.scipy.special.xlogy(probs, probs).sum(axis=-1)


def entropy_of_logits(logits: Array) -> Array:
    """Entropy in nats of softmax(logits) over the last axis, which is never written to memory."""
    log_probs = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def views_kl(targets: Array) -> Array:
    """How differently the teacher sees an image's views: the mean KL(p_i || p_j) of their targets.

    Over all ordered pairs of different views, that is the covariance of p and log p over the
    views, summed over the prototypes.

    Args:
      targets: [B, G, K] teacher probabilities; those below the smallest normal number count as it.

    Returns:
      [B] in nats; 0 where G is 1.
    """
    log_probs = jnp.log(jnp.maximum(targets, jnp.finfo(targets.dtype).tiny))
    spread = targets - targets.mean(axis=1, keepdims=True)
    return (spread * log_probs).sum(axis=(1, 2)) / max(targets.shape[1] - 1, 1)


def agreement(student_logits: Array, targets: Array) -> Array:
    """Returns in how many of an image's global views student and teacher choose the same prototype.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.

    Returns:
      [B] shares of the G views.
    """
    chosen = student_logits[:, : targets.shape[1]].argmax(axis=-1)
    return (chosen == targets.argmax(axis=-1)).mean(axis=1, dtype=targets.dtype)
