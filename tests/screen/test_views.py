"""A sheet of a batch's views: what is masked is dark, and local views lie beside it."""

import numpy as np

from ibot_jax.screen import canvas, views


def batch(local=3):
    """Returns white global views and grey local ones of two images, one patch of four masked."""
    masks = np.zeros((2, 2, 2, 2), bool)
    masks[:, 0, 0, 1] = True
    return {
        "global_views": np.full((2, 2, 96, 96, 3), 255, np.uint8),
        "local_views": np.full((2, local, 32, 32, 3), 100, np.uint8),
        "masks": masks,
    }


def test_masked_patches_are_dark_and_no_other():
    first, second, local = views.row({name: x[0] for name, x in batch().items()}, 96)
    assert np.asarray(first).shape == (96, 96, 3) and (np.asarray(second) == 255).all()
    expected = np.full((96, 96, 3), 255)
    expected[:48, 48:] = 76  # three tenths of it
    np.testing.assert_array_equal(first, expected)
    shown = np.asarray(local)
    assert (shown[:46, :46] == 100).all() and (shown[50:, :46] == 100).all()
    assert (shown[50:, 50:] == canvas.PAPER).all()  # of three there is no fourth


def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_view():
    for local, columns in ((3, 3), (0, 2)):
        sheet = np.asarray(views.views_of_batch(batch(local)))
        dark = (sheet == 76).all(axis=-1)
        assert dark.sum() == 2 * 48 * 48  # of both images
        assert columns * 96 < sheet.shape[1] < (columns + 1) * 96
    many = {name: np.concatenate([x] * 4) for name, x in batch().items()}
    assert (np.asarray(views.views_of_batch(many)) == 76).all(axis=-1).sum() == 6 * 48 * 48
