"""Sliding windows give the recorded outputs, and the weights of resizing those of SciPy."""

import jax
import numpy as np
import pytest
from scipy.ndimage import zoom

from ibot_jax.evaluate.features import bilinear
from ibot_jax.evaluate.probes import windows
from ibot_jax.evaluate.probes.windows import Windows

STRIDE = 8


def fake_model(window):
    """Returns a window's mean and its squares, which is what was recorded."""
    return np.stack([np.full(window.shape, window.mean()), window**2], axis=-1)


def softmax(scores):
    raised = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def view_of(image, to, *, mirrored=False):
    of_image = Windows(image.shape, 12, STRIDE)
    found = [fake_model(window) for window in of_image.cut(image)]
    return of_image.join(found, to, mirrored=mirrored)


@pytest.mark.parametrize("size", [(20, 31), (12, 12), (9, 30), (8, 10)])
def test_outputs_are_the_recorded_ones(dense_evaluation, size):
    key = f"slide/{size[0]}x{size[1]},crop=12,stride={STRIDE}"
    image = dense_evaluation[f"{key}/image"][0, 0].astype(np.float64)
    assert len(Windows(size, 12, STRIDE)) == dense_evaluation[f"{key}/windows"]
    with jax.enable_x64(True):
        found = windows.pixel_scores(view_of(image, size))
        want = np.moveaxis(dense_evaluation[f"{key}/output"][0], 0, -1)
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)
        twice = 2 * size[0], 2 * size[1]
        put_right = windows.pixel_scores(view_of(image, twice, mirrored=True))
        want = np.moveaxis(dense_evaluation[f"{key}/flipped_and_resized"][0], 0, -1)
        np.testing.assert_allclose(softmax(put_right), want, rtol=1e-9, atol=1e-12)


def test_the_last_window_is_moved_inside():
    assert windows.starts(20, 12, 8) == [0, 8]
    assert windows.starts(21, 12, 8) == [0, 8, 9]
    assert windows.starts(12, 12, 8) == [0]
    assert windows.starts(683, 512, 341) == [0, 171]


def test_cells_are_enlarged_to_their_window():
    """One window of 3 x 4 cells, over an image of its size."""
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(3, 4, 2))
    view = Windows((12, 12), 12, STRIDE).join([cells], (12, 12), mirrored=False)
    want = zoom(cells, (4, 3, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(windows.pixel_scores(view), want, atol=1e-5)


def test_the_largest_score_decides_and_of_several_views_the_sum_of_shares():
    rng = np.random.default_rng(0)
    images = [rng.normal(size=size) for size in ((20, 31), (30, 47))]
    views = [view_of(image, (70, 90)) for image in images]
    scores = [np.asarray(windows.pixel_scores(view)) for view in views]
    np.testing.assert_array_equal(windows.decide(views[:1]), scores[0].argmax(-1))
    together = sum(map(softmax, scores)).argmax(-1)
    assert (together != scores[0].argmax(-1)).any()
    np.testing.assert_array_equal(windows.decide(views), together)


@pytest.mark.parametrize(("size", "to"), [(5, 20), (7, 7), (1, 6)])
def test_weights_enlarge_as_scipy_does(size, to):
    values = np.random.default_rng(0).normal(size=size)
    want = zoom(values, to / size, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(bilinear.weights(size, to) @ values, want, atol=1e-12)


def test_weights_that_shrink_take_the_two_nearest():
    np.testing.assert_allclose(bilinear.weights(4, 1), [[0, 0.5, 0.5, 0]])
    np.testing.assert_allclose(bilinear.weights(6, 2), [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]])
