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
    slow = """
        import pytest
        def test_quick(): pass
        @pytest.mark.slow
        def test_slow(): pass
        """
    pytester.makepyfile(test_a="def test_quick(): pass", test_b=slow, test_c=slow, test_d=slow)
    seen = collections.Counter()
    for part in range(2):
        lines = pytester.runpytest("-v", f"--slow-part={part}/2").outlines
        ran = [line.split()[0] for line in lines if " PASSED" in line]
        begun = ("bbdd", "cc")[part]  # what takes longest comes first
        assert "".join(name[5] for name in ran).startswith(begun)
        seen.update(ran)
    assert seen == {f"test_{file}.py::test_quick": 2 for file in "abcd"} | {
        f"test_{file}.py::test_slow": 1 for file in "bcd"
    }
