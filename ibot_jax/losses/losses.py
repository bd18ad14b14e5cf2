"""The two self-distillation losses, their centers and temperatures (paper, section 3.2); monitors.

All arrays are float32 (float64 in parity runs). Shape letters: B batch, G global views, V all
views of the student (the global ones first), N patch tokens of a view, T patch tokens of any
views, K prototypes.

Where prototypes are spread over the axis `over` of a mesh, in manual control of it
(`over_prototypes`), K are this device's, and what is summed over them is summed over the
axis, too: results are the same on all its devices, those by prototype apart.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def _sum(x: Array, over: str | None) -> Array:
    """Sums [..., K] over the prototypes."""
    total = x.sum(axis=-1)
    return total if over is None else jax.lax.psum(total, over)


def _max(x: Array, over: str | None) -> Array:
    """Returns the largest of [..., K] over the prototypes, without gradient."""
    largest = jax.lax.stop_gradient(x.max(axis=-1))
    return largest if over is None else jax.lax.pmax(largest, over)


def _logsumexp(logits: Array, over: str | None) -> Array:
    """Returns log(sum(exp(logits))) over the prototypes."""
    if over is None:
        return jax.nn.logsumexp(logits, axis=-1)
    largest = _max(logits, over)
    return jnp.log(_sum(jnp.exp(logits - largest[..., None]), over)) + largest


def _argmax(x: Array, over: str | None) -> Array:
    """Returns which of all prototypes is the largest, the first of equal ones."""
    chosen = x.argmax(axis=-1)
    if over is None:
        return chosen
    number = jax.lax.axis_size(over) * x.shape[-1]
    chosen += jax.lax.axis_index(over) * x.shape[-1]
    return jax.lax.pmin(jnp.where(x.max(axis=-1) == _max(x, over), chosen, number), over)


def teacher_probs(
    logits: Array, center: Array, temperature: Array, over: str | None = None
) -> Array:
    """Centers and sharpens the teacher's outputs into targets.

    Args:
      logits: [..., K].
      center: [K], of before this step.
      temperature: scalar.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [..., K] probabilities, without gradient.
    """
    sharpened = (logits - center) / temperature
    if over is None:
        return jax.lax.stop_gradient(jax.nn.softmax(sharpened, axis=-1))
    exps = jnp.exp(sharpened - _max(sharpened, over)[..., None])
    return jax.lax.stop_gradient(exps / _sum(exps, over)[..., None])


def class_loss(
    student_logits: Array, targets: Array, student_temp: float, over: str | None = None
) -> Array:
    """Cross-view distillation of class tokens: L_[CLS] of equation 3, image by image.

    The cross-entropy, averaged over all pairs of a teacher's global view and another view of the
    student.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.
      student_temp: the student's temperature.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [B]; the loss is its mean.
    """
    logits = student_logits / student_temp
    # Cross-entropy as logsumexp minus dot product: no table of student log-probabilities.
    normalizer = _logsumexp(logits, over)  # [B, V]
    agreement = jnp.einsum("bgk,bvk->bgv", targets, logits, precision="highest")
    if over is not None:
        agreement = jax.lax.psum(agreement, over)
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


def patch_loss(
    student_logits: Array,
    targets: Array,
    weights: Array,
    student_temp: float,
    over: str | None = None,
) -> Array:
    """Masked image modelling against the online tokenizer: L_MIM of equation 2.

    Args:
      student_logits: [T, K] of masked tokens.
      targets: [T, K] teacher probabilities of the same tokens of the unmasked view.
      weights: [T] of `patch_weights`.
      student_temp: the student's temperature.
      over: the axis of the prototypes, if they are spread.

    Returns:
      Scalar.
    """
    logits = student_logits / student_temp
    cross_entropy = _logsumexp(logits, over) - _sum(targets * logits, over)
    return (weights * cross_entropy).sum()


def update_center(center: Array, batch_mean: Array, momentum: float) -> Array:
    """Moves a center [K] towards the mean of the teacher's raw outputs [K] of this step."""
    return center * momentum + batch_mean * (1 - momentum)


def entropy(probs: Array, over: str | None = None) -> Array:
    """Entropy in nats over the last axis: [..., K] probabilities to [...]."""
    return -_sum(jax.scipy.special.xlogy(probs, probs), over)


def entropy_of_logits(logits: Array, over: str | None = None) -> Array:
    """Entropy in nats of softmax(logits) over the last axis, which is never written to memory."""
    log_probs = logits - _logsumexp(logits, over)[..., None]
    return -_sum(jnp.exp(log_probs) * log_probs, over)


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
    return _sum(spread * log_probs, over).sum(axis=1) / max(targets.shape[1] - 1, 1)


def agreement(student_logits: Array, targets: Array, over: str | None = None) -> Array:
    """Returns in how many of an image's global views student and teacher choose the same prototype.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.
      over: the axis of the prototypes, if they are spread.

    Returns:
      [B] shares of the G views.
    """
    chosen = _argmax(student_logits[:, : targets.shape[1]], over)
    return (chosen == _argmax(targets, over)).mean(axis=1, dtype=targets.dtype)
