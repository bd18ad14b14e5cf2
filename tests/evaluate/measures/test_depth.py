"""Errors of depths are those recorded, and those that follow from their definitions."""

import numpy as np
import pytest

from ibot_jax.evaluate.measures import depth


def test_errors_are_the_recorded_ones(dense_evaluation):
    names = depth.NAMES
    for number, key in ((n, k) for n in range(2) for k in ("FULL", "NYU_EIGEN")):
        target = dense_evaluation["depth/target"][number, 0]
        prediction = dense_evaluation["depth/prediction"][number, 0]
        box = depth.EIGEN if key == "NYU_EIGEN" else (0, 1, 0, 1)
        known = depth.counted(target, 1e-3, 10, box)
        np.testing.assert_array_equal(known, dense_evaluation[f"depth/{key}/mask"][number, 0])
        found = depth.errors(np.clip(prediction, 1e-3, 10)[known], target[known])
        want = dense_evaluation[f"depth/{key}/metrics/{number}"]
        np.testing.assert_allclose([found[name] for name in names], want, rtol=1e-12)


@pytest.mark.parametrize("size", [(480, 640), (60, 80), (100, 90)])
def test_the_box_that_counts_is_the_recorded_one(dense_evaluation, size):
    known = depth.counted(np.ones(size), 0.1, 10, depth.EIGEN)
    rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
    want = dense_evaluation[f"depth/eigen_box/{size[0]}x{size[1]}"]
    assert [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1] == list(want)


def test_the_box_of_kitti():
    known = depth.counted(np.ones((375, 1242)), 0.1, 10, depth.GARG)
    rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
    assert [rows[0], rows[-1], columns[0], columns[-1]] == [153, 370, 44, 1196]


def test_a_prediction_that_is_twice_too_far():
    target = np.array([1.0, 2.0, 4.0])
    found = depth.errors(2 * target, target)
    assert (found["a1"], found["a2"], found["a3"]) == (0, 0, 0)
    assert found["abs_rel"] == 1 and found["mae"] == pytest.approx(7 / 3)
    assert found["silog"] == pytest.approx(0, abs=1e-6)
    assert found["rmse_log"] == pytest.approx(np.log(2))


def test_depths_at_the_ends_do_not_count():
    target = np.array([[0.0, 1e-3, 1.0, 10.0, 11.0]])
    known = depth.counted(target, 1e-3, 10, (0, 1, 0, 1))
    np.testing.assert_array_equal(known, [[False, False, True, False, False]])
