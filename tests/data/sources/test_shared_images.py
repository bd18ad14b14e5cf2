"""Images that two sources share are found by what they hold, against comparing all with all."""

import os
import shutil

import numpy as np
import pytest

from ibot_jax.data.sources import shared_images
from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.shared_images import find_shared


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def of(*folders):
    return find_shared(*(open_source(f"folder:{folder}", "") for folder in folders))


def by_comparing_all(*folders):
    """Which files of each folder, in the order of their names, hold what some other's file does."""
    held = [[path.read_bytes() for path in sorted(f.rglob("*.png"))] for f in folders]
    return [[content in held[1 - side] for content in held[side]] for side in (0, 1)]


def test_they_are_those_that_hold_the_same_bytes(tmp_path):
    """Whatever their names; of equal size, beginning and end are not enough."""
    end = shared_images._END
    base = bytes(np.random.default_rng(0).integers(0, 256, 3 * end, np.uint8))
    middle = base[: end + 5] + b"?" + base[end + 6 :]
    first = {"a/0": base, "a/1": base[:100], "b/2": base, "b/3": b"x" * 50, "b/4": middle[::-1]}
    second = {"a/9": base, "a/8": middle, "c/7": base[:100], "c/6": b"y" * 50, "c/5": base[:99]}
    for side, files in (("first", first), ("second", second)):
        for name, content in files.items():
            write(tmp_path / side, f"{name}.png", content)
    folders = tmp_path / "first", tmp_path / "second"
    found = of(*folders)
    expected = by_comparing_all(*folders)
    assert [(numbers >= 0).tolist() for numbers in found] == expected
    assert (found.count, found.copies) == (2, 2)
    numbers = dict(zip(sorted(first), found.first, strict=True))
    others = dict(zip(sorted(second), found.second, strict=True))
    assert numbers["a/0"] == numbers["b/2"] == others["a/9"] != numbers["a/1"] == others["c/7"]


def test_of_large_sets_only_files_of_the_same_name_are_compared(tmp_path, monkeypatch):
    """And one folder on both sides is not read at all."""
    for name in "abc":
        write(tmp_path / "first", f"x/{name}.png", name.encode() * 9000)
    write(tmp_path / "second", "y/a.png", b"a" * 9000)
    write(tmp_path / "second", "y/renamed.png", b"b" * 9000)
    write(tmp_path / "second", "y/c.png", b"d" * 9000)
    monkeypatch.setattr(shared_images, "_MOST", 0)
    found = of(tmp_path / "first", tmp_path / "second")
    assert (found.first.tolist(), found.second.tolist()) == ([0, -1, -1], [0, -1, -1])
    monkeypatch.setattr(shared_images, "_ends", lambda path: pytest.fail(f"{path} was read"))
    assert of(tmp_path / "first", tmp_path / "first").second.tolist() == [0, 1, 2]


def test_links_are_followed_and_only_files_are_read(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / "pictures", f"x/{name}.png", name.encode() * 9000)
    os.symlink(tmp_path / "pictures", tmp_path / "link")
    (tmp_path / "pipes/x").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes/x/a.png")
    write(tmp_path / "pipes", "x/empty.png", b"")
    monkeypatch.setattr(shared_images, "_content", lambda path: pytest.fail(f"{path} was read"))
    assert of(tmp_path / "pictures", tmp_path / "link").count == 3
    assert of(tmp_path / "pictures", tmp_path / "pipes").count == 0
    assert of(tmp_path / "pipes", tmp_path / "pipes").count == 0  # neither holds an image


def test_a_copy_is_found_and_what_changed_in_it_is_not(tmp_path):
    rng = np.random.default_rng(1)
    for index in range(20):
        write(tmp_path / "here", f"x/{index:02}.png", bytes(rng.integers(0, 256, 500, np.uint8)))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for index in range(0, 20, 4):
        write(tmp_path / "there", f"x/{index:02}.png", bytes(rng.integers(0, 256, 500, np.uint8)))
    found = of(tmp_path / "here", tmp_path / "there")
    np.testing.assert_array_equal(found.second >= 0, np.arange(20) % 4 > 0)
    np.testing.assert_array_equal(found.first, found.second)


def test_sources_without_files():
    train, test = (open_source("digits", split) for split in ("train", "test"))
    assert find_shared(train, test).count == 0
    whole = find_shared(test, open_source("digits", "test", max_per_class=3))
    assert whole.count == 30 and np.count_nonzero(whole.first >= 0) == 30
    assert find_shared(train, open_source("synthetic:5", "train")).count == 0
