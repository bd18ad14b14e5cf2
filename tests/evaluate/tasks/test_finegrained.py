"""The task `finegrained`, from the command line to its report."""

import functools
import json

import finegrained
import jax
import pytest

from ibot_jax.evaluate.probes.chosen_regression import fit_chosen
from ibot_jax.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name in ("flowers102", "voc2007"):
        finegrained.WRITERS[name](root)
    return root


@pytest.mark.slow
def test_colours_are_told_apart_on_sets_of_either_kind(evaluate, data, tmp_path, monkeypatch):
    two = functools.partial(fit_chosen, strengths=(1e-3, 1.0))
    one = functools.partial(make_mesh, jax.devices()[:1])
    monkeypatch.setattr("ibot_jax.evaluate.tasks.finegrained.fit_chosen", two)
    monkeypatch.setattr("ibot_jax.evaluate.tasks.finegrained.make_mesh", one)
    flags = (f"--data={data}", "--features=pixels", "--k=3", "--max-steps=5")
    status, out, err = evaluate("finegrained", *flags)
    assert status == 0
    assert "lacks food-101 (data.vision.ee.ethz.ch" in err and "CUB_200_2011 (" in err
    report = json.loads((tmp_path / "out/finegrained.json").read_text())
    assert report["settings"]["sets"] == ["voc2007", "flowers102"]
    assert report["metrics"] == {
        f"{name}/{by}": pytest.approx(100)
        for name in ("voc2007", "flowers102")
        for by in ("logistic", "knn")
    }
    assert [(row["images"], row["test"], row["measure"]) for row in report["rows"]] == [
        (18, 9, "map11"),
        (18, 9, "mean_class"),
    ]
    assert "mean_class" in out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--set=dtd", "dtd/labels/train1.txt is absent; dtd is "),
        ("--set=birds", "'birds' is none of food101, "),
        ("--k=19", "--k=19 is more than the 18 images of voc2007"),
    ],
)
def test_mistakes_are_one_line_and_status_2(mistake, data, flag, message):
    assert message in mistake("finegrained", data, flag)


def test_a_folder_without_sets_is_told_where_they_are_to_be_had(mistake, tmp_path):
    found = mistake("finegrained", tmp_path)
    assert "has none of the sets: food-101 (data.vision.ee.ethz.ch/" in found
