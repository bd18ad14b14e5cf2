"""Each example of an epoch is made once, by one of the processes, in the order of the epoch."""

import numpy as np
import pytest
from shares import blocks, in_turn

from ibot_jax.config.plan import Plan
from ibot_jax.data.make.order import EpochOrder, Positions
from ibot_jax.parallel.shares import all_rows

PLAN = Plan(batch_size=6, steps_per_epoch=4, total_steps=12)


def test_positions_of_a_process_alone_are_places_in_their_order():
    positions = Positions(PLAN, all_rows(6), range(12))
    assert positions.rows is not None and len(positions.rows) == 6
    for position in range(72):
        step, place = position // 6, position % 24
        assert positions.locate(position) == (step, step // 4, place)


@pytest.mark.parametrize("divide", [blocks, in_turn])
def test_processes_make_their_rows_of_each_step(divide):
    shares = divide(6, 3)
    for step in range(12):
        found = []
        for rows in shares:
            positions = Positions(PLAN, rows, range(12))
            own = [positions.locate(step * 2 + row) for row in range(2)]
            assert [place - step % 4 * 6 for _, _, place in own] == rows.numbers.tolist()
            found += own
        first = step % 4 * 6
        assert sorted(found) == [(step, step // 4, first + row) for row in range(6)]


def test_an_epoch_is_a_permutation_of_its_own():
    order = EpochOrder(seed=3, num_examples=50)
    drawn = [order(epoch) for epoch in range(3)]
    for epoch, numbers in enumerate(drawn):
        expected = np.random.default_rng([3, epoch, 0, 0]).permutation(50)
        np.testing.assert_array_equal(numbers, expected)  # old runs go on in this order
        np.testing.assert_array_equal(EpochOrder(3, 50)(epoch), numbers)
    assert not np.array_equal(EpochOrder(4, 50)(0), drawn[0])


def test_the_orders_of_both_epochs_at_a_boundary_are_kept():
    order = EpochOrder(0, 10)
    first, second = order(0), order(1)
    assert order(0) is first and order(1) is second
    order(2)
    assert order(0) is not first  # and no more than those
