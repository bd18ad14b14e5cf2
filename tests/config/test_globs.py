"""Values of parameters by glob."""

import pytest

from ibot_jax.config import globs

NAMES = [
    "backbone/blocks_0/attn/qkv/kernel",
    "backbone/blocks_1/attn/qkv/kernel",
    "backbone/blocks_10/norm1/bias",
    "backbone/patch_embed/proj/kernel",
    "head/last_layer/v",
]


def test_entries_are_read_in_order():
    text = " backbone: 1 epochs;backbone/blocks_[0-5]/* :100% "
    assert globs.parse(text) == [("backbone", "1 epochs"), ("backbone/blocks_[0-5]/*", "100%")]
    assert globs.parse("") == globs.parse("  ") == []


@pytest.mark.parametrize("text", ["backbone", "backbone 1", ": 1", "a: 1; ", "a: 1;; b: 2", "a:"])
def test_what_is_no_entry_is_told(text):
    with pytest.raises(ValueError, match='has the entry .*; write "GLOB: VALUE; GLOB: VALUE"'):
        globs.parse(text)


@pytest.mark.parametrize(
    ("glob", "named"),
    [
        ("backbone", [0, 1, 2, 3]),
        ("backbone/*", [0, 1, 2, 3]),
        ("backbone/blocks_1", [1]),
        ("backbone/blocks_1*", [1, 2]),
        ("backbone/blocks_[0-1]/attn", [0, 1]),
        ("*bias", [2]),
        ("*/kernel", [0, 1, 3]),
        ("*last_layer", [4]),
        ("*", [0, 1, 2, 3, 4]),
    ],
)
def test_a_glob_names_parameters_and_what_their_names_begin_with(glob, named):
    assert list(globs.by_name([(glob, 1)], NAMES)) == [NAMES[i] for i in named]


def test_the_last_entry_counts():
    found = globs.by_name([("backbone", 1), ("*bias", 2), ("backbone/blocks_10", 3)], NAMES)
    assert [found.get(name) for name in NAMES] == [1, 1, 3, 1, None]


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        ("backbon", "did you mean backbone?"),
        ("backbone/block_1", "did you mean backbone/blocks_1?"),
        ("Backbone", "did you mean backbone?"),
        ("encoder", "names are such as backbone/blocks_0/attn/qkv/kernel"),
    ],
)
def test_one_that_names_nothing_is_told(glob, hint):
    with pytest.raises(ValueError) as told:
        globs.by_name([("head", 1), (glob, 2)], NAMES)
    assert str(told.value) == f"has {glob!r}, which names no parameter; {hint}"
