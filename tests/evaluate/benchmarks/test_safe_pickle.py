"""Pickles give data and run nothing."""

import os
import pickle

import numpy as np
import pytest

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks import safe_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_and_arrays_come_back(protocol):
    data = {
        "imlist": ["a", "b"],
        "gnd": [{"easy": np.array([1, 5]), "bbx": (1.5, np.float32(2)), "junk": {3}, "b": b"\xff"}],
        "names": np.array(["x", "yy"]),
        "mixed": np.array([{"a": 1}, None], object),
    }
    loaded = safe_pickle.loads(pickle.dumps(data, protocol), "file")
    assert loaded["imlist"] == ["a", "b"]
    np.testing.assert_array_equal(loaded["gnd"][0].pop("easy"), [1, 5])
    assert loaded["gnd"] == [{"bbx": (1.5, 2.0), "junk": {3}, "b": b"\xff"}]
    assert loaded["names"].tolist() == ["x", "yy"]
    assert loaded["mixed"].tolist() == [{"a": 1}, None]


def test_arrays_of_python_2_and_an_older_numpy_come_back():
    """As NumPy below 2 names its parts, with a buffer in a Python 2 string."""
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85"
        b"U\x01bq\x02\x87Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02i4q\x05K\x00K\x01\x87R"
        b"q\x06(K\x03U\x01<q\x07NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x01\x00\x00\x00\xff\x00\x00\x00q\x08tb."
    )
    np.testing.assert_array_equal(safe_pickle.loads(content, "file"), [1, 255])


class Program:
    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize(
    ("function", "name"), [(os.mkdir, r"posix\.mkdir|nt\.mkdir"), (eval, r"builtins\.eval")]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_program_is_named_and_not_run(tmp_path, function, name, protocol):
    target = tmp_path / "made"
    argument = str(target) if function is os.mkdir else f"__import__('os').mkdir({str(target)!r})"
    content = pickle.dumps({"gnd": [Program(function, argument)]}, protocol)
    with pytest.raises(UserError, match=rf"gnd\.pkl calls ({name})"):
        safe_pickle.loads(content, "gnd.pkl")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", pickle.dumps([1, 2])[:-3]])
def test_what_is_no_pickle_is_told(content):
    with pytest.raises(UserError, match=r"gnd\.pkl is damaged"):
        safe_pickle.loads(content, "gnd.pkl")
