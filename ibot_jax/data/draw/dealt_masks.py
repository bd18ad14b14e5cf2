"""Masks that are dealt out over a batch, as DINOv2 and DINOv3 do.

Some of a batch's global views are masked. Their ratios climb in equal steps through a range, and
lie in the batch in random order, so that an image may have both views masked, one or none. DINOv2
draws within a view's step, and stops when no block fits any more; DINOv3 takes the upper end of the
step, and fills up with single patches, so that its counts are exact.
"""

import numpy as np

from ibot_jax.data.draw.masks import add_blocks

SMALLEST = 4  # patches of a block, at least
LARGEST = 0.5  # of the grid that a block covers, at most


def deal(rng: np.random.Generator, views: int, share: float, span: tuple[float, float]):
    """Deals the steps of the ratio out over the views of a batch.

    Args:
      rng: where the randomness comes from.
      views: number of views.
      share: of the views that are masked, rounded down.
      span: smallest and largest share of a masked view's patches.

    Returns:
      [views, 2] float64: the ends of the step within which a view's ratio lies; (0, 0) where
      nothing is masked.
    """
    number = int(views * share)
    edges = np.linspace(*span, number + 1)
    steps = np.zeros((views, 2))
    steps[rng.permutation(views)[:number]] = np.stack([edges[:-1], edges[1:]], axis=1)
    return steps


def draw_dealt_mask(
    rng: np.random.Generator,
    kind: str,
    grid: tuple[int, int],
    step: tuple[float, float],
    shift: bool,
) -> np.ndarray:
    """Draws the mask of one global view.

    Args:
      rng: where the randomness comes from.
      kind: "dinov2", or "dinov3" with exact counts.
      grid: patches along the height and the width, (h, w).
      step: the ends of the step within which the ratio lies, of `deal`.
      shift: whether the mask is rolled along both axes by random numbers of patches, so that no
        place is masked more often than another.

    Returns:
      [h, w] bool, True = masked.
    """
    mask = np.zeros(grid, bool)
    low, high = step
    if not high:
        return mask
    ratio = high if kind == "dinov3" else low + (high - low) * rng.random()
    count = int(ratio * mask.size)
    add_blocks(rng, mask, count, SMALLEST, LARGEST * mask.size)
    if kind == "dinov3":
        left = np.flatnonzero(~mask)
        mask.flat[left[rng.permutation(left.size)[: count - mask.sum()]]] = True
    if shift:
        mask = np.roll(mask, [rng.integers(side) for side in grid], axis=(0, 1))
    return mask
