"""Reading ahead keeps order and bounds; processes share batches without gaps."""

import threading

import numpy as np
import pytest
from etils import epath
from PIL import Image
from shares import blocks, in_turn

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import image_files


def test_results_come_in_order_and_not_too_far_ahead():
    begun = []

    def work(number):
        begun.append(number)
        return number * number

    results = image_files.ahead(work, range(100))
    for number, result in zip(range(50), results, strict=False):
        assert result == number * number
        assert max(begun) <= number + 17
    results.close()
    assert max(begun) < 70  # whoever stops listening stops the work


def test_what_a_thread_raises_comes_where_its_result_would_have():
    def work(number):
        if number == 3:
            raise UserError("3.jpg is absent")
        return threading.current_thread() is threading.main_thread()

    results = image_files.ahead(work, range(9))
    assert [next(results) for _ in range(3)] == [False] * 3
    with pytest.raises(UserError, match=r"3\.jpg is absent"):
        next(results)


@pytest.mark.parametrize(("divide", "count"), [(blocks, 1), (blocks, 4), (in_turn, 2)])
def test_processes_share_batches_in_order(divide, count):
    """Eleven items in batches of four: the third lacks one, which is blank."""
    for rows in divide(4, count):
        blank = [np.zeros(2, int), np.array(-1)]
        batches = image_files.share_batches(
            lambda item: [np.array([item, -item]), np.array(item)], range(11), blank, rows
        )
        for number, ((pairs, items), valid) in enumerate(batches):
            expected = np.array([*range(11), -1])[4 * number + rows.numbers]
            np.testing.assert_array_equal(items, expected)
            np.testing.assert_array_equal(valid, expected >= 0)
            np.testing.assert_array_equal(pairs[valid], np.stack([items, -items], axis=1)[valid])
            assert not pairs[~valid].any()
        assert number == 2


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 3), ("RGB", 1), ("L", 1)])
def test_images_have_the_channels_that_are_asked_for(tmp_path, mode, channels):
    Image.new(mode, (5, 1)).save(tmp_path / "a.png")
    pixels = image_files.read_image(epath.Path(tmp_path / "a.png"), Decoding(channels))
    assert pixels.shape == (1, 5, channels)
    assert image_files.to_square(pixels, 3, Decoding(channels)).shape == (3, 3, channels)


def test_labels_are_grey_or_of_a_palette(tmp_path):
    labels = np.array([[0, 7], [255, 1]], np.uint8)
    image = Image.fromarray(labels)
    image.save(tmp_path / "grey.png")
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(tmp_path / "palette.png")
    for name in ("grey", "palette"):
        found = image_files.read_labels(epath.Path(tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(found, labels)
    Image.new("RGB", (2, 2)).save(tmp_path / "colours.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    for name, message in (("colours", "holds colours"), ("broken", "cannot be read")):
        with pytest.raises(UserError, match=rf"{name}\.png {message}"):
            image_files.read_labels(epath.Path(tmp_path / f"{name}.png"))
    with pytest.raises(UserError, match=r"none\.png is absent"):
        image_files.read_labels(epath.Path(tmp_path / "none.png"))


def test_a_folder_lists_its_images_by_name(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    found = image_files.list_images(epath.Path(tmp_path))
    assert [path.name for path in found] == ["a.png", "b.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images; they end in jpg"):
        image_files.list_images(epath.Path(tmp_path / "empty"))
    with pytest.raises(UserError, match="none is no folder"):
        image_files.list_images(epath.Path(tmp_path / "none"))


def test_some_of_many_are_spread_over_all():
    items = list("abcdefghi")
    assert image_files.spread(items, 3) == ["a", "e", "i"]
    assert image_files.spread(items, 1) == ["a"]
    assert image_files.spread(items, 0) == image_files.spread(items, 20) == items
