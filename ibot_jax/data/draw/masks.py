"""Which patches of a global view the student does not see (iBOT, section 3.2; BEiT, algorithm 1).

Host-side, one view at a time, with the draws of the original (`ImageFolderMask` in its loader.py).
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_ASPECT = 1 / 0.3  # of a block; the smallest is its inverse
TRIES = 10  # to place one block, before the view is left as it is


def draw_mask(
    rng: np.random.Generator,
    kind: str,
    grid: tuple[int, int],
    ratios: Sequence[float],
    variances: Sequence[float],
) -> np.ndarray:
    """Draws the mask of one global view.

    The view's ratio is one of `ratios`, plus uniform noise within that entry's variance.

    Args:
      rng: where the randomness comes from.
      kind: "block", rectangles until the ratio is about reached, or "random", single patches.
      grid: patches along the height and the width, (h, w).
      ratios: shares of masked patches, from 0 to 1.
      variances: half-widths of the noise, one for each ratio and not above it.

    Returns:
      [h, w] bool, True = masked: at most `ratio * h * w` patches, with "random" exactly the
      integer part of that.
    """
    choice = rng.integers(len(ratios))
    ratio = ratios[choice] + variances[choice] * (2 * rng.random() - 1)
    budget = ratio * grid[0] * grid[1]  # not rounded
    if kind == "random":
        return _random_mask(rng, grid, int(budget))
    return _block_mask(rng, grid, budget)


def _random_mask(rng: np.random.Generator, grid: tuple[int, int], count: int) -> np.ndarray:
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[rng.permutation(mask.size)[:count]] = True
    return mask.reshape(grid)


def _block_mask(rng: np.random.Generator, grid: tuple[int, int], budget: float) -> np.ndarray:
    """The smallest area, (min(h, w) // 3)^2, may exceed what is left: see `_add_block`."""
    mask = np.zeros(grid, bool)
    add_blocks(rng, mask, budget, (min(grid) // 3) ** 2)
    return mask


def add_blocks(
    rng: np.random.Generator,
    mask: np.ndarray,
    budget: float,
    smallest: float,
    largest: float = math.inf,
) -> None:
    """Masks rectangles in place until so many patches are masked, or no rectangle fits any more.

    Args:
      rng: where the randomness comes from.
      mask: [h, w] bool, all False.
      budget: patches to be masked, at most.
      smallest: area of a rectangle, in patches.
      largest: area of a rectangle, and patches that it may add.
    """
    masked = 0
    while masked < budget:
        added = _add_block(rng, mask, smallest, min(budget - masked, largest))
        if not added:
            break
        masked += added


def _add_block(rng: np.random.Generator, mask: np.ndarray, smallest: float, budget: float) -> int:
    """Masks one rectangle in place; returns how many patches it adds, 0 if none could be placed.

    The smallest area may exceed what is left; the draw then lies between the two all the same, and
    what does not fit the budget is rejected.
    """
    grid_height, grid_width = mask.shape
    max_log_aspect = math.log(MAX_ASPECT)
    for _ in range(TRIES):
        area = smallest + (budget - smallest) * rng.random()
        aspect = math.exp(max_log_aspect * (2 * rng.random() - 1))
        height = round(math.sqrt(area * aspect))
        width = round(math.sqrt(area / aspect))
        if height >= grid_height or width >= grid_width:
            continue
        top = rng.integers(grid_height - height + 1)
        left = rng.integers(grid_width - width + 1)
        block = mask[top : top + height, left : left + width]
        added = block.size - np.count_nonzero(block)
        if 0 < added <= budget:
            block[:] = True
            return added
    return 0
