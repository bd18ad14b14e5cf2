"""Batches to train classifiers on: each view with its own label, whatever happens."""

import logging

import numpy as np
import pytest
from PIL import Image
from shares import in_turn

from ibot_jax.config.plan import make_plan
from ibot_jax.data.labelled import labelled_batches
from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.opening import open_source
from ibot_jax.finetune.config import get_config
from ibot_jax.parallel.shares import all_rows

MEAN = (0.5, 0.5, 0.5)


@pytest.fixture
def config():
    config = get_config()
    config.batch_size = 8
    config.duration = "2 epochs"
    config.data.update(workers=1, max_bad_share=0.0)
    return config


@pytest.fixture
def folder(tmp_path):
    """Classes a, b, c; the n-th of their 20 images has the grey level 10 n: c has the brightest."""
    for index in range(20):
        path = tmp_path / "abc"[index // 7] / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (index * 10,) * 3).save(path)
    return tmp_path


def run(config, folder, size=(16, 24), rows=None, **options):
    source = open_source(f"folder:{folder}", "train")
    plan = make_plan(config, len(source))
    rows = rows or all_rows(plan.batch_size)
    options |= dict(seed=config.seed, data=config.data)
    return list(labelled_batches(source, size, MEAN, Decoding(), plan, rows, **options))


def plain(config):
    config.data.rand_augment.ops = 0
    return config


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for key in ("images", "labels"):
            np.testing.assert_array_equal(one[key], other[key])


def test_views_have_the_size_asked_for_and_the_label_of_their_class(config, folder):
    batches = run(plain(config), folder)
    assert len(batches) == 4  # 2 epochs of 20 // 8 steps
    for batch in batches:
        assert batch["images"].shape == (8, 16, 24, 3) and batch["images"].dtype == np.uint8
        assert batch["labels"].shape == (8,) and batch["labels"].dtype == np.int32
        levels = batch["images"][:, 0, 0, 0] // 10
        np.testing.assert_array_equal(batch["labels"], levels // 7)


def test_views_are_a_function_of_seed_epoch_and_example(config, folder):
    batches = run(config, folder)
    config.data.workers = 2
    assert_equal_batches(run(config, folder, start_step=1), batches[1:])
    for rows in in_turn(config.batch_size, 2):
        own = [{key: batch[key][rows.numbers] for key in batch} for batch in batches]
        assert_equal_batches(run(config, folder, rows=rows), own)
    config.seed = 1
    assert not np.array_equal(run(config, folder)[0]["images"], batches[0]["images"])


def test_a_stand_in_for_a_bad_image_brings_its_own_label(config, folder, caplog):
    config.batch_size = 20
    config.data.max_bad_share = 0.06
    (folder / "b/08.png").write_bytes(b"this is no image")
    with caplog.at_level(logging.WARNING):
        batches = run(plain(config), folder)
    assert "08.png" in caplog.text
    for batch in batches:
        levels = batch["images"][:, 0, 0, 0] // 10
        assert 8 not in levels and len(levels) == 20
        np.testing.assert_array_equal(batch["labels"], levels // 7)


def test_crops_keep_the_share_of_the_image_and_half_are_flipped(config, tmp_path):
    """Of an image whose red rises to the right and whose green rises downwards."""
    rows, columns = np.mgrid[:64, :64] * 4
    for index in range(16):
        path = tmp_path / "a" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.dstack([columns, rows, 0 * rows]).astype(np.uint8)).save(path)
    config.duration = "20 epochs"
    config.data.update(scale=(0.25, 0.25), aspect=(1.0, 1.0), resize="pillow")
    images = np.concatenate([b["images"] for b in run(plain(config), tmp_path, (16, 16))])
    steps = np.diff(images[:, 8, 2:-2, 0].astype(float), axis=1).mean(axis=1)
    np.testing.assert_allclose(np.abs(steps), 4 * 32 / 16, atol=0.5)  # half of each side
    assert np.mean(steps < 0) == pytest.approx(0.5, abs=0.1)
    down = np.diff(images[:, 2:-2, 8, 1].astype(float), axis=1).mean(axis=1)
    np.testing.assert_allclose(down, 8, atol=0.5)  # never upside down


def test_rand_augment_changes_most_views_and_fills_with_the_mean(config, folder):
    plain_views, changed = (
        run(c, folder) for c in (plain(config.copy_and_resolve_references()), config)
    )
    differ = [
        not np.array_equal(a, b)
        for one, other in zip(plain_views, changed, strict=True)
        for a, b in zip(one["images"], other["images"], strict=True)
    ]
    assert 0.3 < np.mean(differ) <= 1
    config.data.rand_augment.update(ops=8, magnitude=10.0)
    pixels = np.concatenate([batch["images"] for batch in run(config, folder)])
    assert (pixels == 128).all(axis=-1).any()  # 0.5 x 255, rounded


@pytest.mark.parametrize("ops", [0, 2])
def test_grey_images_have_one_channel(config, folder, ops):
    config.data.rand_augment.ops = ops
    source = open_source(f"folder:{folder}", "train", channels=1)
    plan = make_plan(config, len(source))
    batches = labelled_batches(
        source,
        (8, 8),
        (0.3,),
        Decoding(channels=1),
        plan,
        all_rows(plan.batch_size),
        seed=config.seed,
        data=config.data,
    )
    assert next(batches)["images"].shape == (8, 8, 8, 1)
