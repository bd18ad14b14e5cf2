"""Several sources in one: exact shares of an epoch, and all images of a source equally often."""

import collections
import pathlib

import numpy as np
import pytest
from tiny import pipeline_settings

from ibot_jax.config import get_config
from ibot_jax.config.plan import make_plan
from ibot_jax.data.make.order import MixedOrder
from ibot_jax.data.pipeline import train_batches
from ibot_jax.data.sources.identity import identify
from ibot_jax.data.sources.mixture import epoch_length, open_training, shares
from ibot_jax.errors import UserError
from ibot_jax.parallel.shares import all_rows


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, [0.7, 0.3], [7, 3]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [0.5, 0.25, 0.25], [3, 2, 2]),
        (1_000_003, [2, 1], [666_669, 333_334]),
    ],
)
def test_shares_are_exact_to_one_image(total, weights, expected):
    assert shares(total, weights) == expected and sum(expected) == total


@pytest.mark.parametrize(
    ("sizes", "counts"), [([10, 4], [5, 5]), ([7, 100, 3], [7, 13, 8]), ([5], [12])]
)
def test_all_images_of_a_source_are_seen_equally_often(sizes, counts):
    """By counts: after any number of epochs those of a source differ by one at most."""
    order, total = MixedOrder(3, sizes, counts), sum(sizes)
    seen, starts = collections.Counter(), np.cumsum([0, *sizes])
    for epoch in range(9):
        numbers = order(epoch)
        assert len(set(numbers.tolist())) == sum(counts)  # repetitions have numbers of their own
        images = numbers % total
        seen.update(images.tolist())
        for number, count in enumerate(counts):
            of_source = (starts[number] <= images) & (images < starts[number + 1])
            assert of_source.sum() == count
            times = [seen[image] for image in range(starts[number], starts[number + 1])]
            assert max(times) - min(times) <= 1 and sum(times) == count * (epoch + 1)
    np.testing.assert_array_equal(MixedOrder(3, sizes, counts)(4), order(4))
    assert not np.array_equal(MixedOrder(4, sizes, counts)(4), order(4))


@pytest.fixture
def mixture(make_folder):
    """Returns the section `data` of a mixture of a folder and digits, and the folder."""
    folder = make_folder("a", "b")
    config = get_config()
    config.data.mixture = f"1: folder:{folder}; 2: digits"
    config.data.mixture_epoch = 24
    return config.data


def test_a_mixture_has_the_images_of_all(mixture):
    source = open_training(mixture)
    assert len(source) == 20 + 1442 and epoch_length(source) == 24 and source.counts == [8, 16]
    assert source.num_classes is None and source.locate(3)[1] == -1
    for index, part, place in ((3, 0, 3), (19, 0, 19), (20, 1, 0), (1461, 1, 1441)):
        expected = source.parts[part].fetch(source.parts[part].locate(place)[0])
        found = source.fetch(source.locate(index)[0])
        assert np.array_equal(found, expected)
        assert source.describe(index) == source.parts[part].describe(place)
    assert "8 of folder:" in source.name and "16 of digits, train" in source.name


def test_other_shares_are_other_images(mixture):
    before = identify(open_training(mixture))
    mixture.mixture_epoch = 48
    after = identify(open_training(mixture))
    assert before["images"] == after["images"] and before["names"] != after["names"]


def test_batches_of_a_mixture_are_resumed(mixture, config):
    """Bit for bit, in the first and in a later epoch, with workers that fetch from both sources."""
    source = open_training(mixture)
    plan = make_plan(config, epoch_length(source))

    def batches(start_step=0):
        rows = all_rows(plan.batch_size)
        settings = pipeline_settings(config)
        return list(train_batches(source, plan, rows, start_step=start_step, **settings))

    expected = batches()
    assert len(expected) == plan.total_steps == 6  # two epochs of 24 images
    for start in (2, 4):
        for found, batch in zip(batches(start), expected[start:], strict=True):
            np.testing.assert_array_equal(found["global_views"], batch["global_views"])


def test_batches_tell_where_their_images_come_from(mixture, config, caplog):
    """A bad image is replaced by another of its source, so shares stay exact."""
    source = open_training(mixture)
    for index in range(3):
        pathlib.Path(source.describe(index)).write_bytes(b"no image")
    config.data.max_bad_share = 1.0
    plan = make_plan(config, epoch_length(source))
    settings = pipeline_settings(config)
    batches = list(train_batches(source, plan, all_rows(plan.batch_size), **settings))
    order = MixedOrder(config.seed, [20, 1442], [8, 16])
    replaced = 0
    for epoch in range(2):
        numbers = order(epoch) % len(source)
        some = batches[3 * epoch : 3 * epoch + 3]
        found = np.concatenate([batch["source"] for batch in some])
        bad = np.concatenate([batch["replaced"] for batch in some])
        np.testing.assert_array_equal(found, numbers >= 20)
        np.testing.assert_array_equal(bad, numbers < 3)
        replaced += bad.sum()
        views = np.concatenate([batch["global_views"] for batch in some])
        # Digits are grey, and the folder's noise is not.
        grey = (views == views[..., :1]).all(axis=(1, 2, 3, 4))
        np.testing.assert_array_equal(grey, numbers >= 20)
    assert replaced and "skipped" in caplog.text


@pytest.mark.parametrize(
    ("text", "epoch", "message"),
    [
        ("digits", 0, r"the entry 'digits'; write \"SHARE: SOURCE; SHARE: SOURCE\""),
        ("0: digits", 0, "the entry '0: digits'; write"),
        ("1: digits; x: digits", 0, "the entry 'x: digits'; write"),
        ("1: digits; 0.001: synthetic:5", 9, "leaves no image of synthetic:5 in an epoch of 9"),
        ("1: digits; 1: folder:/nowhere", 0, "folder:/nowhere' is no folder"),
    ],
)
def test_mistakes_are_told(text, epoch, message, mixture):
    mixture.mixture, mixture.mixture_epoch = text, epoch
    with pytest.raises(UserError, match=message):
        open_training(mixture)
