"""Masks follow the original's distribution."""

import math
import random

import numpy as np
import pytest
from dice import Dice

from ibot_jax.data.draw import masks
from ibot_jax.data.draw.masks import draw_mask

# The settings of the recorded statistics: key, kind, grid, ratios, variances.
SETTINGS = [
    ("block_14x14_0,0.3_var_0,0.2", "block", (14, 14), (0, 0.3), (0, 0.2)),
    ("block_14x14_0.3_var_0", "block", (14, 14), (0.3,), (0,)),
    ("block_8x8_0.3_var_0.2", "block", (8, 8), (0.3,), (0.2,)),
    ("rand_14x14_0,0.7_var_0,0.05", "random", (14, 14), (0, 0.7), (0, 0.05)),
]
DRAWS = 6000


def draw(kind, grid, ratios, variances, seed=0, draws=DRAWS):
    rng = np.random.default_rng(seed)
    return np.stack([draw_mask(rng, kind, grid, ratios, variances) for _ in range(draws)])


def statistics(masks):
    """Histogram of masked counts, frequency by position, share with a masked right neighbour."""
    counts = masks.sum((1, 2))
    histogram = np.bincount(counts, minlength=masks[0].size + 1) / len(masks)
    pairs = masks[:, :, :-1] & masks[:, :, 1:]
    return histogram, masks.mean(0), pairs.sum() / masks.sum()


def assert_same_distribution(found, expected):
    # Kolmogorov-Smirnov at p = 0.001 for 6,000 against as many; five standard errors elsewhere.
    assert np.abs(np.cumsum(found[0]) - np.cumsum(expected[0])).max() < 0.036
    assert np.abs(found[1] - expected[1]).max() < 5 * math.sqrt(2 * 0.25 / DRAWS)
    assert abs(found[2] - expected[2]) < 0.01


@pytest.mark.parametrize(("key", "kind", "grid", "ratios", "variances"), SETTINGS)
def test_masks_have_the_recorded_statistics(view_statistics, key, kind, grid, ratios, variances):
    expected = [
        view_statistics[f"mask/{key}/{name}"]
        for name in ("count_histogram", "position_frequency", "horizontal_neighbour_rate")
    ]
    assert_same_distribution(statistics(draw(kind, grid, ratios, variances)), expected)


def written_from_the_description(rand, height, width, ratio):
    """Block masks as `shared/reference/README.md` words them, on a set of cells."""
    high = ratio * height * width
    masked = set()
    while len(masked) < high:
        left = high - len(masked)
        for _ in range(10):
            area = rand.uniform((min(height, width) // 3) ** 2, left)
            aspect = 0.3 ** rand.uniform(-1, 1)
            h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if h >= height or w >= width:
                continue
            top, first = rand.randint(0, height - h), rand.randint(0, width - w)
            block = {(y, x) for y in range(top, top + h) for x in range(first, first + w)}
            if 1 <= len(block - masked) <= left:
                masked |= block
                break
        else:
            break
    mask = np.zeros((height, width), bool)
    for cell in masked:
        mask[cell] = True
    return mask


@pytest.mark.parametrize("grid", [(14, 14), (6, 12), (3, 5)])
def test_block_masks_match_an_independent_implementation(grid):
    rand = random.Random(1)
    expected = np.stack([written_from_the_description(rand, *grid, 0.4) for _ in range(DRAWS)])
    assert_same_distribution(statistics(draw("block", grid, (0.4,), (0,))), statistics(expected))


def test_blocks_are_as_elongated_as_the_description_says():
    """With room for hardly more than one block, the columns that are touched tell its width."""
    rand = random.Random(1)
    expected = np.stack([written_from_the_description(rand, 14, 14, 0.1) for _ in range(DRAWS)])
    found = draw("block", (14, 14), (0.1,), (0,))
    for axis in (1, 2):
        widths = [np.bincount(m.any(axis).sum(1), minlength=15) / DRAWS for m in (found, expected)]
        # Kolmogorov-Smirnov at p = 0.001.
        assert np.abs(np.cumsum(widths[0]) - np.cumsum(widths[1])).max() < 0.036


def test_block_masks_stay_within_the_ratio_and_mostly_use_it():
    counts = draw("block", (14, 14), (0.3,), (0,), draws=500).sum((1, 2))
    assert counts.max() <= 0.3 * 196
    assert counts.mean() > 0.95 * 0.3 * 196


def test_random_masks_have_the_integer_part_of_the_ratio():
    masks = draw("random", (7, 14), (0.35,), (0,), draws=50)
    assert set(masks.sum((1, 2))) == {34}  # 0.35 * 98 = 34.3
    assert len({mask.tobytes() for mask in masks}) == 50


def test_ratios_are_drawn_with_their_own_variance():
    counts = draw("random", (20, 20), (0.1, 0.5), (0, 0.2), draws=2000).sum((1, 2))
    low = counts == 40
    assert abs(low.mean() - 0.5) < 0.06
    assert counts[~low].min() < 0.32 * 400
    assert 0.68 * 400 < counts[~low].max() <= 0.7 * 400


def test_ratio_zero_masks_nothing():
    assert not draw("block", (14, 14), (0.0,), (0.0,), draws=20).any()


def test_a_ratio_follows_from_its_draws():
    order = np.arange(24)[::-1]
    for choice, noise, number in ((0, 0.99, 2), (1, 0.0, 7), (1, 0.5, 12), (1, 1.0, 16)):
        dice = Dice(choice, noise, order)
        mask = draw_mask(dice, "random", (4, 6), (0.1, 0.5), (0.0, 0.2))
        assert dice.limits == [2] and dice.left == []
        assert mask.shape == (4, 6) and mask.reshape(-1)[24 - number :].all()
        assert mask.sum() == number


def block_of(*draws, masked=0, grid=(9, 12), budget=20.0):
    """Adds one block to a mask whose first rows are masked; returns all that came of it."""
    dice, mask = Dice(*draws), np.zeros(grid, bool)
    mask[:masked] = True
    added = masks._add_block(dice, mask, (min(grid) // 3) ** 2, budget)
    assert dice.left == []
    if not added:
        return 0, None, dice.limits
    rows, columns = np.nonzero(mask[masked:])
    corners = (rows.min() + masked, columns.min(), rows.max() + masked, columns.max())
    return added, corners, dice.limits


def test_a_block_follows_from_its_draws():
    """The smallest has (9 // 3)^2 = 9 patches; sides are rounded."""
    assert block_of(0.0, 0.5, 6, 9) == (9, (6, 9, 8, 11), [7, 10])  # 3 x 3
    assert block_of(7 / 11, 0.5, 0, 0) == (16, (0, 0, 3, 3), [6, 9])  # 4 x 4
    assert block_of(1.0, 0.0, 0, 1) == (16, (0, 1, 1, 8), [8, 5])  # 6 patches: 2.4 x 8.2
    # 8.2 x 2.4, which is lower than the grid by one; nine high does not fit, nor twelve wide.
    assert block_of(1.0, 1.0, 1, 2) == (16, (1, 2, 8, 3), [2, 11])
    again = 0.0, 0.5, 0, 0
    assert block_of(1.0, 1.0, *again, budget=24.3)[0] == 9
    assert block_of(1.0, 0.0, *again, budget=43.2)[0] == 9
    assert block_of(1.0, 0.0, 0, 0, budget=37.5, grid=(9, 13))[1:] == ((0, 0, 2, 10), [7, 3])


def test_a_block_adds_a_patch_at_least_and_fits_what_is_left():
    nine = 0.0, 0.5
    assert block_of(*nine, 0, 0, *nine, 1, 0, masked=3) == (3, (3, 0, 3, 2), [7, 10] * 2)
    one = block_of(*nine, 0, 0, grid=(4, 6), budget=1.0)  # of 1 patch at least
    assert one == (1, (0, 0, 0, 0), [4, 6])
    assert block_of(*nine, 0, 0, budget=9.0)[0] == 9
    # 9 patches do not fit 8; of those that are left, 6 are masked already.
    assert block_of(*nine, 0, 0, *nine, 1, 0, masked=3, budget=8.0)[0] == 3
    assert block_of(*[*nine, 4, 0] * 10, budget=8.0) == (0, None, [7, 10] * 10)


def test_blocks_are_added_until_the_budget_is_used_or_none_fits():
    nine = 0.0, 0.5
    dice = Dice(0, 0.5, *nine, 0, 0, *nine, 6, 9)
    mask = draw_mask(dice, "block", (9, 12), (18 / 108,), (0.0,))
    assert mask.sum() == 18 and dice.left == []
    # 17 of them leave 8, into which no other whole block fits.
    dice = Dice(0, 0.5, *nine, 0, 0, *[*nine, 6, 9] * 10)
    mask = draw_mask(dice, "block", (9, 12), (17 / 108,), (0.0,))
    assert mask.sum() == 9 and dice.left == []
