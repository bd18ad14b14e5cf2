"""Mixing, erasing and smoothing against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibot_jax.finetune import mixing

BATCH, HEIGHT, WIDTH = 64, 24, 32


def draw(seed=0, batch=BATCH, **options):
    options = dict(mixup=0.0, cutmix=0.0, cutmix_share=0.5) | options
    weights = mixing.draw_weights(jax.random.key(seed), (batch, HEIGHT, WIDTH), **options)
    return np.asarray(weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_are_the_closed_form(smoothing):
    labels = np.array([2, 0])
    off, on = smoothing / 4, 1 - smoothing + smoothing / 4
    expected = [[off, off, on, off], [on, off, off, off]]
    found = mixing.soft_labels(labels, 4, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_mixing_is_a_weighted_mean_of_neighbours_for_images_and_labels():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 4, 5, 3)).astype(np.float32)
    targets = np.eye(7, dtype=np.float32)[[0, 1, 2, 3, 4, 4]]
    weights = rng.random((6, 4, 5)).astype(np.float32)
    mixed, soft = mixing.mix(*map(jnp.asarray, (images, targets, weights)))
    for row, neighbour in enumerate([1, 0, 3, 2, 5, 4]):
        w = weights[row][..., None]
        expected = w * images[row] + (1 - w) * images[neighbour]
        np.testing.assert_allclose(mixed[row], expected, atol=1e-6)
        share = weights[row].mean()
        expected = share * targets[row] + (1 - share) * targets[neighbour]
        np.testing.assert_allclose(soft[row], expected, atol=1e-6)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)


def test_mixup_draws_one_share_an_image_from_its_beta_distribution():
    weights = draw(mixup=0.8, batch=2000)
    assert (weights == weights[:, :1, :1]).all()
    shares = weights[:, 0, 0]
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.1)  # of Beta(x, x)


def test_cutmix_keeps_all_but_a_box_of_the_drawn_share():
    """Boxes that are not cut at the border: their sides in proportion, the shares uniform."""
    weights = draw(cutmix=1.0, batch=2000)
    assert set(np.unique(weights)) == {0.0, 1.0}
    inside = weights == 0
    rows, columns = inside.any(axis=2), inside.any(axis=1)
    areas = inside.sum(axis=(1, 2))
    np.testing.assert_array_equal(areas, rows.sum(axis=1) * columns.sum(axis=1))  # rectangles
    for lines in (rows, columns):
        starts = np.diff(lines.astype(int), axis=1, prepend=0) == 1
        assert starts.sum(axis=1).max() == 1  # without a gap
    whole = ~(rows[:, 0] | rows[:, -1] | columns[:, 0] | columns[:, -1]) & (areas > 0)
    ratio = columns.sum(axis=1)[whole] / rows.sum(axis=1)[whole]
    assert np.median(ratio) == pytest.approx(WIDTH / HEIGHT, abs=0.1)
    # Uniform shares and centres, an even number of whole pixels, cut at borders: by NumPy.
    rng = np.random.default_rng(0)
    limits = np.array([HEIGHT, WIDTH])
    halves = np.floor(limits * np.sqrt(1 - rng.random((20_000, 1)))) // 2
    centres = np.floor(rng.random((20_000, 2)) * limits)
    low, high = np.clip(centres - halves, 0, limits), np.clip(centres + halves, 0, limits)
    expected = ((high - low) / limits).prod(axis=1).mean()
    assert inside.mean() == pytest.approx(expected, abs=0.02)  # of 2,000 boxes: the error is 0.004


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_cutmix_is_that_of_images_where_both_are_on(share):
    weights = draw(mixup=0.8, cutmix=1.0, cutmix_share=share, batch=2000)
    binary = np.array([set(np.unique(w)) <= {0.0, 1.0} for w in weights])
    assert binary.mean() == pytest.approx(share, abs=0.03)


def test_boxes_of_noise_have_the_area_and_the_frequency_asked_for():
    images = jnp.full((2000, HEIGHT, WIDTH, 2), 9.0)
    erased = np.asarray(mixing.random_erase(jax.random.key(1), images, 0.25))
    noise = erased != 9.0
    np.testing.assert_array_equal(noise[..., 0], noise[..., 1])  # places, not channels
    noise = noise[..., 0]
    hit = noise.any(axis=(1, 2))
    assert hit.mean() == pytest.approx(0.25, abs=0.03)
    areas = noise[hit].mean(axis=(1, 2))
    assert areas.min() > 0.01 and areas.max() < 0.36  # sides are rounded
    assert areas.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    rows, columns = noise[hit].any(axis=2).sum(axis=1), noise[hit].any(axis=1).sum(axis=1)
    np.testing.assert_allclose(areas * HEIGHT * WIDTH, rows * columns)
    ratios = np.log(rows / columns)
    assert abs(np.median(ratios)) < 0.15 and ratios.min() > np.log(0.25)
    values = erased[noise]
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    first_rows = noise[hit].any(axis=2).argmax(axis=1) / (HEIGHT - rows)
    assert first_rows.min() == 0 and first_rows.max() == 1  # both ends are reached


def test_what_is_drawn_does_not_depend_on_the_devices():
    """Row by row the same on one device and on eight."""
    mesh = jax.make_mesh((8,), ("data",))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images = np.random.default_rng(0).normal(size=(BATCH, HEIGHT, WIDTH, 1)).astype(np.float32)
    erase = jax.jit(lambda images: mixing.random_erase(jax.random.key(3), images, 0.5))
    np.testing.assert_allclose(erase(jax.device_put(images, layout)), erase(images), atol=1e-6)
