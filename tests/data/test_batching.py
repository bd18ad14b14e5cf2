"""Batches of chunks that threads make: in order, whole, in memory that is used again."""

import random
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from ibot_jax.data.batching import PREFETCH, run_batches
from ibot_jax.data.make.shared_arrays import SharedBatches, attach

CHUNK, BATCH, THREADS = 2, 6, 4


def workers():
    places = []

    class Counted(SharedBatches):
        def take(self):
            place, arrays = super().take()
            places.append(place)
            return place, arrays

    batches = Counted((np.zeros(3, np.int64),), BATCH)
    return types.SimpleNamespace(batches=batches, count=THREADS, close=lambda: None), places


def running(pool, lengths, fail_at=None):
    """Runs data sets of numbers, of which each row of a batch is to hold its own."""
    starts = np.cumsum([0, *lengths])
    inputs = (
        tf.data.Dataset.range(start, start + length)
        for start, length in zip(starts, lengths, strict=False)
    )
    views = {}

    def make(place, row, numbers):
        time.sleep(random.random() / 200)
        if fail_at in numbers:
            raise ValueError("it is broken")
        if place not in views:
            blank = (np.zeros(3, np.int64),)
            views[place] = attach(pool.batches.descriptor, blank, BATCH, place)[0]
        views[place][row : row + CHUNK] = numbers[:, None] * (1, 10, 100)
        return (-numbers,)

    return run_batches(inputs, make, (np.zeros((), np.int64),), CHUNK, BATCH, pool)


def test_each_row_is_in_its_place_whoever_is_first():
    pool, _ = workers()
    found = list(running(pool, [24, 6, 30]))
    assert len(found) == 10
    numbers = np.concatenate([batch[0] for batch in found])
    assert (numbers == np.arange(60)[:, None] * (1, 10, 100)).all()
    assert (np.concatenate([batch[1] for batch in found]) == -np.arange(60)).all()


def test_memory_is_that_of_the_batches_under_way():
    pool, places = workers()
    for batch in running(pool, [60 * BATCH]):
        assert batch[0].shape == (BATCH, 3)
    assert len(places) == 60
    under_way = 2 + THREADS // (BATCH // CHUNK) + PREFETCH + 2  # begun, ahead, and held outside
    assert len(set(places)) <= under_way


def test_what_is_held_is_not_written_again():
    pool, _ = workers()
    batches = running(pool, [40 * BATCH])
    held = next(batches)[0][3:5]
    before = held.copy()
    for _ in batches:
        pass
    assert (held == before).all()


def test_a_failure_is_raised_where_batches_are_read():
    pool, _ = workers()
    with pytest.raises(ValueError, match="it is broken"):
        list(running(pool, [60], fail_at=33))
