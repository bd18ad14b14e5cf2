"""The revisited benchmarks' files and setups, with answers by hand."""

import pickle

import numpy as np
import pytest
from etils import epath

from ibot_jax.errors import UserError
from ibot_jax.evaluate.benchmarks.revisited import Query, measure, read_benchmark

TRUTH = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0], "hard": np.array([2]), "junk": [], "bbx": [1.0, 2.0, 9.0, 8.0]}],
}


@pytest.fixture
def benchmark(tmp_path):
    """Returns a function that writes a ground truth, and its images, and reads them."""

    def make(changes=(), missing=()):
        folder = tmp_path / "roxford5k"
        (folder / "jpg").mkdir(parents=True)
        truth = {**TRUTH, **dict(changes)}
        (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
        for name in {"a", "b", "c", "d", "q"} - set(missing):
            (folder / "jpg" / f"{name}.jpg").touch()
        return read_benchmark(epath.Path(tmp_path), "roxford5k")

    return make


def test_ground_truth_is_read(benchmark):
    found = benchmark()
    assert [path.name for path in found.database] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    (query,) = found.queries
    assert query.image.name == "q.jpg" and query.box == (1, 2, 9, 8)
    assert {kind: list(ids) for kind, ids in query.relevant.items()} == {
        "easy": [0],
        "hard": [2],
        "junk": [],
    }


def test_setups_differ_in_what_counts_and_what_is_ignored():
    """Ranking: junk, easy, other, hard. By hand, after what a setup ignores is taken out."""
    query = Query(
        epath.Path("q"), (0, 0, 1, 1), {k: np.array([i]) for i, k in enumerate(("easy", "hard"))}
    )
    query.relevant["junk"] = np.array([3])
    nothing = Query(epath.Path("r"), (0, 0, 1, 1), {k: np.array([], int) for k in query.relevant})
    rows = measure([np.array([3, 0, 2, 1])] * 2, [query, nothing])
    expected = {
        "easy": (100, 100, 100, 100),  # easy, other
        # easy, other, hard: (1 + (1/2 + 2/3) / 2) / 2; up to the third
        "medium": (100 * (1 + 7 / 12) / 2, 100, 200 / 3, 200 / 3),
        "hard": (25, 0, 50, 50),  # other, hard: (0 + 1/2) / 2
    }
    assert [row["setup"] for row in rows] == list(expected)
    for row in rows:
        assert row["queries"] == 1  # the other one has nothing to be found
        values = [row[name] for name in ("map", "mp@1", "mp@5", "mp@10")]
        np.testing.assert_allclose(values, expected[row["setup"]], err_msg=row["setup"])


def with_gnd(**changes):
    return {"gnd": [{**TRUTH["gnd"][0], **changes}]}


@pytest.mark.parametrize(
    ("changes", "missing", "message"),
    [
        ({}, ["b", "q"], r"b\.jpg is absent, and so are 1 other images that gnd_roxford5k\.pkl"),
        ({"gnd": []}, [], r"gnd_roxford5k\.pkl is no ground truth of the revisited benchmarks"),
        ({"imlist": []}, [], "names no queries or no images"),
        (with_gnd(easy=[4]), [], "q refers to image number 4 of 4"),
        (with_gnd(bbx=[5, 5, 5, 9]), [], r"q has the box \(bbx\) \(5\.0, 5\.0, 5\.0, 9\.0\)"),
        (with_gnd(junk="x"), [], "is no ground truth"),
        (with_gnd(junk=print), [], r"calls builtins\.print; only lists"),
    ],
)
def test_what_is_wrong_with_the_files_is_told(benchmark, changes, missing, message):
    with pytest.raises(UserError, match=message):
        benchmark(changes, missing)


def test_folders_and_files_that_are_absent_are_named(tmp_path):
    with pytest.raises(UserError, match=r"rparis6k is no folder"):
        read_benchmark(epath.Path(tmp_path), "rparis6k")
    (tmp_path / "rparis6k").mkdir()
    with pytest.raises(UserError, match=r"gnd_rparis6k\.pkl is absent"):
        read_benchmark(epath.Path(tmp_path), "rparis6k")
