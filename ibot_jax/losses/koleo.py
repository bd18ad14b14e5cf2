"""KoLeo: images are to be spread evenly (Sablayrolles et al. 2019; DINOv2, section 4).

The loss is the Kozachenko-Leonenko estimator of the entropy, negated and but for constants: the
mean of -log of the distance from each unit vector to its nearest ones in a group of images. Its
gradient flows into both.

Groups are counted in images, so that the loss of a batch is the same on any number of devices:
DINOv2's neighbours within a device are groups of as many images as its devices have, DINOv3's over
several devices likewise (`koleo_loss_distributed`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

_EPSILON = 1e-8  # added thrice: to a norm at least, to differences, and to distances


def koleo(
    tokens: Array, group: int, nearest: int = 1, across: Sequence[str] = ()
) -> tuple[Array, Array]:
    """Returns the loss of the images of this device, and how near the nearest ones are.

    Args:
      tokens: [B, D] of this device, any norm; at least float32.
      group: consecutive images of the whole batch among which neighbours are sought: a divisor or
        a multiple of B, and a divisor of the batch.
      nearest: how many neighbours each image is pushed away from, fewer than `group`.
      across: the axes over which images are spread, if they are.

    Returns:
      Scalars: the loss; and the mean distance to the nearest neighbour, without gradient. Both are
      means over the images of this device.
    """
    norms = jnp.sqrt(jnp.maximum((tokens**2).sum(axis=-1, keepdims=True), _EPSILON**2))
    units = tokens / norms
    number, width = units.shape
    if group <= number or not across:
        groups = units.reshape(-1, min(group, number), width)
        losses, distances = jax.vmap(lambda own: _of_rows(own, own, 0, nearest))(groups)
        return losses.mean(), distances.mean()
    everyone = jax.lax.all_gather(units, across, tiled=True)
    first = jax.lax.axis_index(across) * number
    start = first // group * group
    others = jax.lax.dynamic_slice_in_dim(everyone, start, group)
    return _of_rows(units, others, first - start, nearest)


def _of_rows(own: Array, others: Array, first: Array | int, nearest: int) -> tuple[Array, Array]:
    """Returns loss and mean nearest distance of unit rows [B, D] among [N, D], where they lie.

    Args:
      own: rows `first`, first + 1, ... of `others`.
      others: where neighbours are sought.
      first: where own rows begin there.
      nearest: as in `koleo`.
    """
    fixed = jax.lax.stop_gradient((own, others))
    similarity = jnp.matmul(fixed[0], fixed[1].T, precision="highest")
    itself = jnp.arange(len(others)) == first + jnp.arange(len(own))[:, None]
    _, chosen = jax.lax.top_k(jnp.where(itself, -2, similarity), nearest)
    differences = own[:, None] - others[chosen] + _EPSILON  # [B, nearest, D]
    distances = jnp.sqrt((differences**2).sum(axis=-1))
    loss = -jnp.log(distances + _EPSILON).mean()
    return loss, jax.lax.stop_gradient(distances[:, 0].mean())
