"""Lists of images that processes compare, as threads that exchange their messages."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.sources import same_images
from ibot_jax.data.sources.opening import open_source
from ibot_jax.errors import UserError


class Exchange:
    """`agreement.gather` of processes that are threads, called p0, p1, ..."""

    def __init__(self, number):
        self.messages = [b""] * number
        self.barrier = threading.Barrier(number, timeout=30)
        self.sent = 0

    def __call__(self, message):
        self.messages[int(threading.current_thread().name[1:])] = message
        self.barrier.wait()
        told = list(self.messages)
        self.sent += sum(map(len, told))
        self.barrier.wait()
        return told


@pytest.fixture
def compare(monkeypatch):
    """Returns a function that calls another one for each of several arguments, as processes.

    It returns what each raised, None for nothing, and how many bytes were exchanged.
    """

    def run(function, *arguments):
        exchange = Exchange(len(arguments))
        monkeypatch.setattr(same_images, "gather", exchange)
        monkeypatch.setattr(same_images, "is_alone", lambda: False)
        raised = [None] * len(arguments)

        def one(process, argument):
            try:
                function(argument)
            except UserError as error:
                raised[process] = str(error)

        threads = [
            threading.Thread(target=one, args=pair, name=f"p{pair[0]}")
            for pair in enumerate(arguments)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised, exchange.sent

    return run


def names(count):
    return [f"{index % 7}/{index:06d}.png".encode() for index in range(count)]


def require(names):
    same_images.require_same_names(names, "folder:x")


def test_the_same_names_are_the_same(compare):
    raised, sent = compare(require, *[names(1000)] * 3)
    assert raised == [None] * 3 and sent < 3 * 3 * 100


@pytest.mark.parametrize("place", [0, 1, 499, 998, 999])
@pytest.mark.parametrize("process", [0, 2])
def test_whoever_lacks_a_name_is_named_with_it(compare, place, process):
    lists = [names(1000) for _ in range(3)]
    name = lists[process].pop(place).decode()
    raised, _ = compare(require, *lists)
    assert len(set(raised)) == 1  # all end, with the same words
    assert raised[0].startswith("folder:x: the images of the processes are not the same: ")
    assert f"process {process} on " in raised[0].split(" lacks ")[0]
    assert f" lacks {name}; " in raised[0]
    for other in {0, process or 1}:
        assert f"process {other} on " in raised[0]
    assert "has 1,000" in raised[0] and "has 999" in raised[0]


def test_another_name_and_another_order_are_told(compare):
    renamed, turned = names(100), names(100)
    renamed[40] = b"other.png"
    turned[40], turned[50] = turned[50], turned[40]
    (first, _), _ = compare(require, names(100), renamed)
    assert f"process 1 on {os.uname().nodename} lacks {names(100)[40].decode()}" in first
    (first, _), _ = compare(require, names(100), turned)
    assert f"has {names(100)[50].decode()} elsewhere in the order" in first
    (first, _), _ = compare(require, names(3), [])
    assert f"lacks {names(3)[0].decode()}" in first


def test_a_hundred_thousand_names_take_few_bytes(compare):
    lists = names(100_000), names(100_000)[:-1]
    (first, _), sent = compare(require, *lists)
    assert " lacks 4/099999.png" in first
    assert sent < 10_000


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)
    return folder


def test_sources_are_compared_by_names_within_their_folder(compare, tmp_path):
    all_of_them = "a/0.png", "a/1.png", "b/0.png"
    one, two = (images(tmp_path / name, *all_of_them) for name in ("one", "two"))
    three = images(tmp_path / "three", *all_of_them[:2])
    first, second = (open_source(f"folder:{folder}", "train") for folder in (one, two))
    raised, sent = compare(same_images.require_same_images, first, second)
    assert raised == [None, None] and sent > 0
    assert compare(same_images.require_same_images, first, second)[1] == 0  # once is enough
    first, second = (open_source(f"folder:{folder}", "train") for folder in (one, three))
    (told, again), _ = compare(same_images.require_same_images, first, second)
    assert told.partition(": the images")[2] == again.partition(": the images")[2]
    assert "process 1" in told and " lacks b/0.png; " in told


def test_files_are_compared_by_names_below_what_they_share(compare, tmp_path):
    here, there = (
        [tmp_path / host / name for name in ("x/0.png", "x/1.png", "y/0.png")] for host in "ab"
    )

    def files(paths):
        same_images.require_same_files(paths, "--data=d")

    assert compare(files, here, there)[0] == [None, None]
    boxes = [(path, (0, 0, 1, 1)) for path in there]
    assert compare(files, here, boxes)[0] == [None, None]
    (first, second), _ = compare(files, here, [there[0], there[2]])
    assert first == second and "process 1" in first and " lacks /x/1.png" in first


def test_a_process_alone_compares_nothing(tmp_path):
    same_images.require_same_images(open_source("digits", "train"))
    same_images.require_same_files([], "--data=d")
