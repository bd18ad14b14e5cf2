"""Shared batches: one memory under two addresses, without overlap, used again when free."""

import os

import numpy as np

from ibot_jax.data.make.shared_arrays import ALIGNMENT, SharedBatches, attach

BLANK = (np.zeros((2, 5), np.uint8), np.zeros((0, 3), np.uint8), np.zeros(3, np.float32))


def test_what_one_writes_the_other_reads():
    batches = SharedBatches(BLANK, rows=7)
    taken = [batches.take() for _ in range(3)]
    attached = [attach(batches.descriptor, BLANK, 7, place) for place, _ in taken]
    del batches  # the memory stays as long as an array
    for place, one in taken:
        assert [array.shape for array in one] == [(7, 2, 5), (7, 0, 3), (7, 3)]
        assert [array.dtype for array in one] == [np.uint8, np.uint8, np.float32]
        for number, array in enumerate(one, start=1):
            array[...] = 10 * place + number
    for (place, _), other in zip(taken, attached, strict=True):
        for number, array in enumerate(other, start=1):
            assert (array == 10 * place + number).all()
            assert array.ctypes.data % ALIGNMENT == 0


def test_a_place_is_free_when_the_last_view_of_its_arrays_is_gone():
    batches = SharedBatches(BLANK, rows=2)
    first, arrays = batches.take()
    row = arrays[2][1]
    del arrays
    second, others = batches.take()
    assert second != first
    del row
    assert batches.take()[0] == first
    del others
    held = [batches.take() for _ in range(5)]
    assert len({place for place, _ in held}) == 5
    assert {first, second} < {place for place, _ in held}


def test_it_begins_with_zeros_and_has_no_name():
    batches = SharedBatches(BLANK, rows=2)
    assert not any(array.any() for array in batches.take()[1])
    assert os.fstat(batches.descriptor).st_nlink == 0
