"""Shared arrays: one memory under two addresses, laid out without overlap."""

import os

import numpy as np

from ibot_jax.data.make import shared_arrays

BLANK = (np.zeros((2, 5), np.uint8), np.zeros((0, 3), np.uint8), np.zeros(3, np.float32))


def test_what_one_writes_the_other_reads():
    descriptor = shared_arrays.create(BLANK, rows=7)
    one, other = (shared_arrays.attach(descriptor, BLANK, rows=7) for _ in range(2))
    os.close(descriptor)  # the memory stays as long as an array
    assert [array.shape for array in one] == [(7, 2, 5), (7, 0, 3), (7, 3)]
    assert [array.dtype for array in one] == [np.uint8, np.uint8, np.float32]
    for number, array in enumerate(one, start=1):
        array[...] = number
    for number, array in enumerate(other, start=1):
        assert (array == number).all()
        assert array.ctypes.data % shared_arrays.ALIGNMENT == 0


def test_it_begins_with_zeros_and_has_no_name():
    descriptor = shared_arrays.create(BLANK, rows=2)
    try:
        assert not any(array.any() for array in shared_arrays.attach(descriptor, BLANK, rows=2))
        assert os.fstat(descriptor).st_nlink == 0
    finally:
        os.close(descriptor)
