"""The class loss: a view's class token is to predict the teacher's of another view.

Arrays are float32 (float64 in parity runs). B batch, G global views, V all views of the student,
the global ones first, K prototypes.
"""

import jax
import jax.numpy as jnp

from ibot_jax.losses import prototypes

Array = jax.Array


def class_loss(
    student_logits: Array,
    targets: Array,
    student_temp: float,
    over: str | None = None,
    local_weight: float = 1.0,
) -> Array:
    """Cross-view distillation of class tokens: L_[CLS] of equation 3, image by image.

    The cross-entropy, averaged over all pairs of a teacher's global view and another view of the
    student.

    Args:
      student_logits: [B, V, K].
      targets: [B, G, K] teacher probabilities.
      student_temp: the student's temperature.
      over: the axis of the prototypes, if they are spread.
      local_weight: factor of the pairs with a local view, by which the mean is not divided.

    Returns:
      [B]; the loss is its mean.
    """
    logits = student_logits / student_temp
    # Cross-entropy as logsumexp minus dot product: no table of student log-probabilities.
    normalizer = prototypes.logsumexp(logits, over)  # [B, V]
    product = jnp.einsum("bgk,bvk->bgv", targets, logits, precision="highest")
    if over is not None:
        product = jax.lax.psum(product, over)
    cross_entropy = normalizer[:, None] - product  # [B, G, V]
    num_global, num_views = cross_entropy.shape[1:]
    other_view = 1 - jnp.eye(num_global, num_views)
    if local_weight != 1:
        other_view *= jnp.where(jnp.arange(num_views) < num_global, 1, local_weight)
    return (cross_entropy * other_view).sum(axis=(1, 2)) / (num_global * (num_views - 1))
