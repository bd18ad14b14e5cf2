"""What the mutation tester changes, and that it tells a test that can fail from one that cannot."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from mutation.mutations import mutations

SURVIVORS = Path(__file__).with_name("survivors.toml")
CASES = {
    "a < b": ["a <= b", "a >= b"],
    "a + 1": ["a - 1", "2", "0"],
    "stop_gradient(a)": ["a"],
    "x.psum(a, 'data')": [
        *("x.pmax(a, 'data')", "x.pmean(a, 'data')", "a", "x.psum('data', a)"),
        "'fsdp'",
    ],
    "psum(a, BATCH_AXES)": ["a", "psum(BATCH_AXES, a)", "'data'", "'fsdp'"],
    "jnp.where(a, b, c)": ["jnp.where(b, a, c)", "jnp.where(a, c, b)"],
    "f(a, b)": ["f(b, a)"],
    "a[:b]": ["b:"],
    "not a": ["a"],
    "a if b else c": ["c if b else a"],
    "max(a, b)": ["min(a, b)"],
    "a and b": ["a or b"],
}


@pytest.mark.parametrize("source", CASES)
def test_each_place_is_changed_in_its_ways(source):
    found = list(mutations(f"def f():\n    '''A text of 1.'''\n    return {source}\n"))
    assert [mutation.after for mutation in found] == CASES[source]
    assert {mutation.where for mutation in found} == {"f"}
    for mutation in found:
        assert mutation.after in mutation.source and "'''A text of 1.'''" in mutation.source


def test_messages_and_imports_are_left_alone():
    source = "from a import b\nassert b == 1\nraise ValueError(f'{1 + 1} of 3')\n"
    assert list(mutations(source)) == []


def test_equal_places_have_names_of_their_own():
    names = [mutation.name for mutation in mutations("a = b + c\nd = b + c\n")]
    assert names == [": b + c -> b - c", ": b + c -> b - c #2"]


def test_what_may_survive_is_still_there():
    for file, names in tomllib.loads(SURVIVORS.read_text()).items():
        source = (SURVIVORS.parents[2] / file).read_text()
        found = {mutation.name for mutation in mutations(source)}
        assert names.keys() <= found, (file, names.keys() - found)
        assert all(names.values())  # with a reason


@pytest.mark.slow
def test_a_change_that_a_test_sees_is_killed_and_another_survives(tmp_path):
    for folder in ("ibot_jax", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ibot_jax/__init__.py").touch()
    (tmp_path / "ibot_jax/half.py").write_text("def half(x):\n    return max(x, 0) / 2\n")
    (tmp_path / "tests/test_half.py").write_text(
        "from ibot_jax.half import half\n\ndef test_half():\n    assert half(3) == 1.5\n"
    )
    program = Path(__file__).with_name("__main__.py")
    command = [sys.executable, program, "ibot_jax/half.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "survived  ibot_jax/half.py half: 0 -> 1" in done.stdout  # 3 is more than both
    assert "4 of 6 killed" in done.stdout
