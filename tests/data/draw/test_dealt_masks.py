"""Masks dealt out over a batch have the recorded statistics of DINOv2 and DINOv3."""

import math

import numpy as np
import pytest

from ibot_jax.data.draw.dealt_masks import deal, draw_dealt_mask

DRAWS = 6000


@pytest.fixture(scope="module")
def recorded(reference):
    return np.load(reference("mask_statistics_dino.npz"))


def assert_within_five_standard_errors(masks, recorded, key):
    """Counts, places, neighbours; of both samples, each as if of draws without memory."""
    expected = {name: recorded[f"{key}/{name}"] for name in ("count_histogram", "draws")}
    number, others = len(masks), int(expected["draws"])
    both = 1 / number + 1 / others
    histogram = expected["count_histogram"] / expected["count_histogram"].sum()
    counts = masks.sum((1, 2))
    found = np.bincount(counts, minlength=masks[0].size + 1) / number
    pooled = (found * number + histogram * others) / (number + others)
    assert (np.abs(found - histogram) <= 5 * np.sqrt(pooled * both) + 1e-12).all()
    # Kolmogorov-Smirnov at p = 1e-6, and the mean.
    assert np.abs(np.cumsum(found) - np.cumsum(histogram)).max() < 2.7 * math.sqrt(both)
    mean = histogram @ np.arange(len(histogram))
    assert abs(counts.mean() - mean) <= 5 * counts.std() * math.sqrt(both) + 1e-9
    frequency = recorded[f"{key}/position_frequency"]
    error = np.sqrt(frequency * (1 - frequency) * both)
    assert (np.abs(masks.mean(0) - frequency) <= 5 * error + 1e-12).all()
    for name, axis in (("right", 2), ("lower", 1)):
        inner = np.take(masks, range(masks.shape[axis] - 1), axis)
        pairs = (inner & np.take(masks, range(1, masks.shape[axis]), axis)).sum((1, 2))
        # A share of pairs in all masked tokens, or in those that have such a neighbour at all.
        share = pairs.sum() / inner.sum()
        spread = np.std(pairs - share * inner.sum((1, 2))) / inner.sum((1, 2)).mean()
        assert abs(share - recorded[f"{key}/{name}_neighbour_masked"]) <= 5 * spread * math.sqrt(
            both
        )


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
@pytest.mark.parametrize(("side", "target"), [(14, 19), (14, 68), (16, 51), (16, 128)])
def test_a_view_has_the_recorded_statistics(recorded, kind, side, target):
    rng = np.random.default_rng(0)
    ratio = (target + 0.5) / side**2, (target + 0.5) / side**2
    masks = np.stack([draw_dealt_mask(rng, kind, (side, side), ratio, False) for _ in range(DRAWS)])
    assert_within_five_standard_errors(masks, recorded, f"{kind}/grid={side}/target={target}")


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "dinov3,shifted"])
def test_a_batch_has_the_recorded_statistics(recorded, kind):
    key = f"batch/{kind}/grid=14,images=32,probability=0.5,ratio=0.1-0.5"
    rng, batches = np.random.default_rng(1), []
    name, _, shift = kind.partition(",")
    for _ in range(120):
        steps = deal(rng, 64, 0.5, (0.1, 0.5))
        batches.append([draw_dealt_mask(rng, name, (14, 14), s, bool(shift)) for s in steps])
    batches = np.array(batches)
    whole = (~batches.any((2, 3))).mean()
    assert whole == recorded[f"{key}/unmasked_views"] == 0.5
    assert_within_five_standard_errors(batches.reshape(-1, 14, 14), recorded, key)
    totals, theirs = batches.sum((1, 2, 3)), recorded[f"{key}/masked_tokens_a_batch"]
    both = 1 / len(totals) + 1 / len(theirs)
    error = 5 * max(totals.std(), theirs.std()) * math.sqrt(both)
    assert abs(totals.mean() - theirs.mean()) <= error + 1e-9


def test_steps_climb_through_the_range_and_lie_in_random_order():
    rng = np.random.default_rng(0)
    steps = deal(rng, 9, 0.5, (0.1, 0.5))
    masked = steps[steps.any(axis=1)]
    np.testing.assert_allclose(
        masked[masked[:, 0].argsort()], [(0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5)]
    )
    orders = {tuple(deal(rng, 9, 0.5, (0.1, 0.5))[:, 0].argsort()) for _ in range(50)}
    assert len(orders) > 45


def test_exact_counts_and_even_places():
    rng = np.random.default_rng(0)
    masks = np.stack(
        [draw_dealt_mask(rng, "dinov3", (5, 9), (0.2, 0.43), True) for _ in range(4000)]
    )
    assert set(masks.sum((1, 2))) == {int(0.43 * 45)}
    assert np.abs(masks.mean(0) - 19 / 45).max() < 5 * math.sqrt(0.25 / 4000)
    assert not draw_dealt_mask(rng, "dinov3", (5, 9), (0.0, 0.0), True).any()
