"""What the tests share: one does not change the numbers of the next."""

import collections
import inspect

import jax
import jax.numpy as jnp
import slow_parts

pytest_plugins = ["pytester"]


def test_a_command_may_set_double_precision():
    jax.config.update("jax_enable_x64", True)
    assert jnp.ones(()).dtype == "float64"


def test_and_the_next_test_is_in_float32():
    assert jnp.ones(()).dtype == "float32"


def test_parts_of_the_slow_tests_are_all_of_them_once_and_the_quick_ones_are_in_each(pytester):
    pytester.makeconftest(inspect.getsource(slow_parts))
    pytester.makeini("[pytest]\nmarkers = slow: of minutes")
    pytester.makepyfile(
        test_a="def test_quick(): pass",
        test_b="""
            import pytest
            def test_quick(): pass
            @pytest.mark.slow
            @pytest.mark.parametrize("x", range(5))
            def test_slow(x): pass
            """,
    )
    seen = collections.Counter()
    for part in range(3):
        lines = pytester.runpytest("-v", f"--slow-part={part}/3").outlines
        ran = [line.split()[0] for line in lines if " PASSED" in line]
        assert "test_b.py" in ran[0]  # what takes longest is begun first
        seen.update(ran)
    assert {name for name, times in seen.items() if times == 3} == {
        "test_a.py::test_quick",
        "test_b.py::test_quick",
    }
    assert sorted(name for name, times in seen.items() if times == 1) == [
        f"test_b.py::test_slow[{x}]" for x in range(5)
    ]
