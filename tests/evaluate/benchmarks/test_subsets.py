"""Which training images have labels."""

import numpy as np
import pytest

from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.tfds import TfdsStream
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.subsets import choose, few_of_each

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 40, 7]))
ROWS = np.arange(len(LABELS))


def test_a_share_is_one_of_every_class():
    chosen = choose("10%", LABELS, ROWS, None, seed=0)
    np.testing.assert_array_equal(np.bincount(LABELS[chosen]), [10, 4, 1])
    assert len(set(chosen)) == 15 and list(chosen) == sorted(chosen)


def test_no_class_goes_without():
    np.testing.assert_array_equal(
        np.bincount(LABELS[choose("1%", LABELS, ROWS, None, seed=0)]), [1, 1, 1]
    )


def test_the_seed_chooses():
    again, other = (choose("10%", LABELS, ROWS, None, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(choose("10%", LABELS, ROWS, None, seed=0), again)
    assert set(again) != set(other)


def test_a_small_share_is_part_of_a_large_one():
    small, large = (choose(share, LABELS, ROWS, None, seed=3) for share in ("10%", "30%"))
    assert set(small) < set(large)


def test_all_are_all():
    np.testing.assert_array_equal(choose("all", LABELS, ROWS, None, seed=0), ROWS)


@pytest.fixture
def named(tmp_path):
    """Returns a split of six images, of which 2 could not be read, and a list of two."""
    for name in ("a/a_0.png", "a/a_1.png", "a/a_2.png", "b/b_0.png", "b/b_1.png", "b/b_2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    (tmp_path / "list.txt").write_text("a_1.png\n\nsomewhere/b_2.png\n")
    return open_source(f"folder:{tmp_path / 'images'}", "train"), str(tmp_path / "list.txt")


def test_a_list_names_files(named):
    rows = np.array([0, 1, 3, 4, 5])
    chosen = choose(named[1], np.array([0, 0, 1, 1, 1]), rows, named[0], seed=0)
    np.testing.assert_array_equal(rows[chosen], [1, 5])


def test_what_cannot_be_chosen_is_told(named, tmp_path):
    source, path = named
    labels = np.array([0, 0, 0, 1, 1, 1])
    rows = np.arange(6)
    for which, message in (
        ("0%", "--labels=0% is no share above 0% and up to 100%"),
        ("ten%", "--labels=ten% is no share"),
        ("nowhere.txt", "neither all nor a share such as 10%, and no file that can be read"),
    ):
        with pytest.raises(UserError, match=message):
            choose(which, labels, rows, source, seed=0)
    with pytest.raises(UserError, match=r"lists somewhere/b_2\.png, which folder:.* lacks"):
        choose(path, labels[:5], rows[:5], source, seed=0)
    with pytest.raises(UserError, match="images with names"):
        choose(path, labels, rows, TfdsStream.__new__(TfdsStream), seed=0)


@pytest.fixture
def alike(tmp_path):
    """Returns a function from lines to the images of two classes that they choose, a/0.png ..."""
    for name in ("a/0.png", "a/1.png", "a/deep/2.png", "b/0.png", "b/1.png", "b/3.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    source = open_source(f"folder:{tmp_path / 'images'}", "train")

    def chosen(*lines):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        places = choose(str(tmp_path / "list.txt"), source.labels, np.arange(6), source, seed=0)
        return [source.relative_name(int(place)) for place in places]

    return chosen


def test_folders_tell_images_of_the_same_name(alike, tmp_path):
    assert alike("a/0.png", "b/1.png") == ["a/0.png", "b/1.png"]
    assert alike("b/1.png", f"{tmp_path}/images/a/1.png") == ["a/1.png", "b/1.png"]
    assert alike("3.png", "/home/you/2.png", "a/0.png", "a/0.png") == [
        "a/0.png",
        "a/deep/2.png",
        "b/3.png",
    ]
    assert alike("\ufeffa/0.png") == ["a/0.png"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.png", "lists 0.png, which 2 images of folder:.* are called; add their folders"),
        ("/home/you/0.png", "which 2 images"),
        ("a/3.png", "lists a/3.png, which folder:.* lacks"),
        ("a/9.png", "lists a/9.png, which folder:.* lacks"),
    ],
)
def test_a_line_that_means_no_image_or_several_is_a_mistake(alike, line, message):
    with pytest.raises(UserError, match=message):
        alike("a/1.png", line)


def test_a_list_that_is_no_text_is_a_mistake(named, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no file that can be read .it is no text"):
        choose(named[1], np.zeros(6), np.arange(6), named[0], seed=0)


def test_few_of_each_class_are_among_more_of_the_same_seed():
    labels = np.array([2, 0, 1, 1, 0, 2, 0, 1, 2, 2, -1])
    one, three = (few_of_each(number, labels, seed=5) for number in (1, 3))
    assert set(one) < set(three)
    np.testing.assert_array_equal(np.bincount(labels[three]), [3, 3, 3])
    assert any(not np.array_equal(one, few_of_each(1, labels, seed=seed)) for seed in range(5))
    with pytest.raises(ValueError, match="class 0 has 3 images only"):
        few_of_each(4, labels, seed=5)
