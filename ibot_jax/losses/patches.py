"""The patch loss: a masked patch token is to predict the teacher's of the whole view.

Arrays are float32 (float64 in parity runs). B batch, G global views, N patch tokens of a view, T
patch tokens of any views, K prototypes.
"""

import jax
import jax.numpy as jnp

from ibot_jax.losses import prototypes

Array = jax.Array


def patch_weights(masks: Array, dtype: jnp.dtype, visible: float = 0.0) -> Array:
    """What each patch token weighs in the patch loss.

    Each view's tokens are averaged over its masked ones (a view without masks counts as 0), then
    views over batch and global views. With iBOT++ (TIPSv2, 2604.12012) a view's mean over its
    visible tokens is added.

    Args:
      masks: [B, G, N] bool.
      dtype: of the result.
      visible: what the mean over visible tokens weighs.

    Returns:
      [B, G, N], without `visible` 0 where not masked.
    """

    def share(tokens: Array) -> Array:
        tokens = tokens.astype(dtype)
        return tokens / jnp.maximum(tokens.sum(axis=-1, keepdims=True), 1)

    weights = share(masks) + visible * share(~masks) if visible else share(masks)
    return weights / (masks.shape[0] * masks.shape[1])


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
    cross_entropy = prototypes.logsumexp(logits, over) - prototypes.total(targets * logits, over)
    return (weights * cross_entropy).sum()
