"""Blocks and channels of other weights, as a config writes them."""

import pytest

from ibot_jax.config import selections


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3", (0, 1, 2, 3)), ("0, 2,4", (0, 2, 4)), ("1-2,2,0", (1, 2, 2, 0)), ("", ())],
)
def test_blocks(text, numbers):
    assert selections.blocks(text) == numbers


@pytest.mark.parametrize("text", ["3-1", "a", "-1", "0--2", "1.5", "99999", ",", " "])
def test_no_blocks(text):
    with pytest.raises(ValueError, match="names no blocks"):
        selections.blocks(text)


@pytest.mark.parametrize(
    ("text", "old", "new", "entries"),
    [
        ("expand", 3, 5, (0, 1, 2, "mean", "mean")),
        ("expand", 3, 1, ("mean",)),
        ("expand", 4, 2, ("mean", "mean")),
        ("red, green,blue,zero", 3, 4, (0, 1, 2, "zero")),
        ("1,mean", 2, 2, (1, "mean")),
    ],
)
def test_channels(text, old, new, entries):
    assert selections.channels(text, old, new) == entries


@pytest.mark.parametrize(
    ("text", "old", "new"), [("red", 3, 2), ("red", 4, 1), ("3,0", 3, 2), ("", 3, 1)]
)
def test_no_channels(text, old, new):
    with pytest.raises(ValueError, match=f"needs {new} entries, each one of 0, 1"):
        selections.channels(text, old, new)


def test_channels_that_see_nothing():
    with pytest.raises(ValueError, match="leaves no channel to see by"):
        selections.channels("zero,zero", 3, 2)
