"""The task `fewshot`, from the command line to its report."""

import json

import numpy as np
import pytest


def test_colours_are_told_apart_by_few_images(evaluate, tmp_path):
    flags = ("--features=pixels", "--shots=1,4", "--draws=2", "--max-steps=10")
    status, out, err = evaluate("fewshot", *flags)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out/fewshot.json").read_text())
    assert [(row["shots"], row["by"], row["draws"]) for row in report["rows"]] == [
        (shots, by, 2) for shots in (1, 4) for by in ("logistic", "mean")
    ]
    assert report["metrics"]["4-shot/mean"] == report["metrics"]["4-shot/logistic"] == 100
    assert report["metrics"]["4-shot/mean_deviation"] == 0
    assert "deviation" in out


def test_mean_and_deviation_are_those_of_the_draws(evaluate, tmp_path, monkeypatch):
    """Of classifiers that find 3, 9 and 15 of the 15 images."""
    drawn = []

    def some(features, labels, queries, num_classes):
        drawn.append(sorted(map(float, features[:, 0])))
        right = np.repeat(np.arange(3), 5)
        return np.where(np.arange(15) < (3, 9, 15)[len(drawn) - 1], right, (right + 1) % 3)

    monkeypatch.setattr("ibot_jax.evaluate.tasks.fewshot.nearest_mean", some)
    flags = ("--features=pixels", "--shots=4", "--draws=3", "--max-steps=10")
    assert evaluate("fewshot", *flags)[0] == 0
    found = json.loads((tmp_path / "out/fewshot.json").read_text())["metrics"]
    assert found["4-shot/mean"] == pytest.approx(60)
    assert found["4-shot/mean_deviation"] == pytest.approx(40)
    assert len({tuple(values) for values in drawn}) == 3  # each draw has images of its own


def test_more_images_than_a_class_has_are_told(evaluate):
    status, _, err = evaluate("fewshot", "--features=pixels", "--shots=2,13")
    assert status == 2
    assert err == "error: --shots=13 is more than the 12 training images of blue; lower it\n"
