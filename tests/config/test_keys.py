"""Each key by itself: what it takes, and what comes of its entry in the table."""

import numpy as np
import pytest

from ibot_jax.config import defaults, get_config
from ibot_jax.config.flat import flatten
from ibot_jax.config.listing import groups, listing
from ibot_jax.finetune import config as finetune

OTHERS_SAY_HOW_LONG = ("mean", "std", "ratios", "variances", "stage_depths", "stage_heads")
OTHERS_SAY_HOW_LONG += ("global_sides", "local_sides", "shares")
MAY_BE_NEVER = ("knn.every", "gram.every", "high_res.last")
TABLES = {"pretraining": defaults, "finetuning": finetune}
KEYS = {
    f"{name}: {key}": entry for name, table in TABLES.items() for key, entry in table.KEYS.items()
}
NUMBERS = {
    name: key
    for name, key in KEYS.items()
    if isinstance(key.default, int | float | tuple) and not isinstance(key.default, bool)
}


def like(key, number):
    """The number in the shape of the key's default: a tuple has it in every place."""
    if not isinstance(key.default, tuple):
        return number
    return (number,) * len(key.default)


def first(key):
    return key.default[0] if isinstance(key.default, tuple) else key.default


def is_whole(key):
    return isinstance(first(key), int)


@pytest.mark.parametrize("name", KEYS)
def test_a_default_is_allowed(name):
    assert KEYS[name].problem(KEYS[name].default) == ""
    assert KEYS[name].meaning


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_taken_that_makes_no_sense(name):
    key = NUMBERS[name]
    numbers = [-1, -(10**12), 10**30, 10**400]
    if not is_whole(key):
        numbers = [*map(float, numbers[:3]), 10**400, 1e300, -1e300, 1e-300, -1e-300, 1e-45]
        numbers += [float("nan"), float("inf"), float("-inf")]
    else:
        numbers += [1.5, float("nan"), float("inf"), True, "1", None]
    for number in numbers:
        assert key.problem(like(key, number)), number


@pytest.mark.parametrize("name", [n for n, key in NUMBERS.items() if not is_whole(key)])
def test_what_is_taken_is_finite_in_float32_and_0_only_where_it_was_0(name):
    key = NUMBERS[name]
    for exponent in range(-320, 309):
        for digit in (1.0, 9.99):
            number = digit * 10.0**exponent
            if not key.problem(like(key, number)):
                with np.errstate(over="raise", under="raise"):
                    assert np.isfinite(np.float32(number)) and np.float32(number) > 0


@pytest.mark.parametrize(
    "name", [n for n, key in NUMBERS.items() if isinstance(key.default, tuple)]
)
def test_tuples_have_the_length_that_they_need(name):
    key = NUMBERS[name]
    assert key.problem(first(key)).startswith("has the wrong type")
    assert key.problem(list(key.default)).startswith("has the wrong type")
    if name.split(".")[-1] in OTHERS_SAY_HOW_LONG:
        return  # as long as another key says
    for length in (0, 1, len(key.default) + 1):
        if length != len(key.default):
            value = (first(key),) * length
            assert key.problem(value) == f"needs {len(key.default)} entries"


@pytest.mark.parametrize("key", ["global_scale", "local_scale", "aspect", "blur_radius"])
def test_ranges_rise(key):
    key = defaults.KEYS[f"data.{key}"]
    assert key.problem(key.default[::-1]).startswith("must be two rising numbers")
    assert key.problem((key.default[0],) * 2) == ""


DURATIONS = [name for name, key in KEYS.items() if str(key.takes).startswith("a number of epochs")]


def test_durations_are_known():
    assert len(DURATIONS) == 12 + 5


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_that_make_no_sense(name):
    key = KEYS[name]
    texts = ("-1 epochs", "nan", "inf", "1e30 epochs", "1e300 examples", "1e400 steps", "ten")
    for text in (*texts, "1e3e3", "5 apples", "epochs", "101%"):
        assert key.problem(text), text
    assert bool(key.problem("")) == (not name.endswith(MAY_BE_NEVER))
    assert bool(key.problem("50%")) == name.endswith(": duration")


@pytest.mark.parametrize("name", TABLES)
def test_the_listing_has_every_key_with_default_range_and_meaning(name):
    table = TABLES[name]
    text = listing(table.KEYS, table.SECTIONS)
    words = " ".join(text.split())
    for key, entry in table.KEYS.items():
        assert text.count(f"  --config.{key}=") == 1
        assert f"[{entry.kind.value}] {entry.meaning}" in words and str(entry.takes) in words
        assert key.rsplit(".", 1)[-1] in groups(table.KEYS, table.SECTIONS)
    assert max(map(len, text.splitlines())) <= 92


def test_the_config_is_the_table():
    assert flatten(get_config()) == {key: entry.default for key, entry in defaults.KEYS.items()}
