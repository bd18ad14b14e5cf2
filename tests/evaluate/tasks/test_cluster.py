"""Clusters: scores by hand, planted clusters, and the task from the command line to its report."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from ibot_jax import export
from ibot_jax.evaluate.tasks import cluster
from ibot_jax.weights.load import load


def test_scores_are_those_of_counting_pairs_and_matchings():
    """Twelve images, three classes, four clusters."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    assigned = np.array([7, 7, 7, 5, 5, 5, 5, 2, 9, 9, 2, 2])
    pairs = list(itertools.combinations(range(12), 2))
    of_class = {(i, j) for i, j in pairs if labels[i] == labels[j]}
    of_cluster = {(i, j) for i, j in pairs if assigned[i] == assigned[j]}
    precision = len(of_class & of_cluster) / len(of_cluster)
    recall = len(of_class & of_cluster) / len(of_class)
    names = (7, 5, 2, 9)
    matched = max(
        sum(((labels == c) & (assigned == names[k])).sum() for c, k in enumerate(chosen))
        for chosen in itertools.permutations(range(4), 3)
    )
    scores = cluster.agreement(labels, assigned)
    assert scores["accuracy"] == pytest.approx(100 * matched / 12)
    assert scores["fmi"] == pytest.approx(100 * math.sqrt(precision * recall))
    assert scores["f1"] == pytest.approx(200 * precision * recall / (precision + recall))
    # Mutual information over the mean of the entropies.
    joint = np.array([[np.mean((labels == c) & (assigned == k)) for k in names] for c in range(3)])
    classes, clusters = joint.sum(1), joint.sum(0)
    information = sum(
        p * math.log(p / classes[c] / clusters[k]) for (c, k), p in np.ndenumerate(joint) if p
    )
    entropies = [-sum(p * math.log(p) for p in marginal) for marginal in (classes, clusters)]
    assert scores["nmi"] == pytest.approx(200 * information / sum(entropies))
    expected = len(of_class) * len(of_cluster) / len(pairs)  # pairs that agree by chance
    most = (len(of_class) + len(of_cluster)) / 2
    ari = (len(of_class & of_cluster) - expected) / (most - expected)
    assert scores["ari"] == pytest.approx(100 * ari)


def test_the_names_of_clusters_do_not_matter():
    labels = np.array([0, 0, 1, 1, 2, 2])
    perfect = dict.fromkeys(("accuracy", "nmi", "ari", "fmi", "f1"), pytest.approx(100))
    assert cluster.agreement(labels, np.array([9, 9, 4, 4, 0, 0])) == perfect


def test_all_in_one_cluster_is_one_class():
    scores = cluster.agreement(np.array([0, 0, 1, 1]), np.zeros(4, int))
    assert scores["accuracy"] == 50 and scores["nmi"] == 0 and scores["ari"] == 0


def test_kmeans_finds_planted_clusters_by_direction():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    directions = np.eye(6)[labels] + 0.05 * rng.normal(size=(80, 6))
    features = directions * rng.uniform(0.1, 10, (80, 1))  # whose lengths would mislead
    assigned = cluster.assign_by_kmeans(features.astype(np.float32), 4, restarts=3, seed=0)
    assert cluster.agreement(labels, assigned)["accuracy"] == 100


def test_the_head_puts_images_on_its_largest_logit(workdir, monkeypatch):
    model, params = load(workdir, head=True)
    monkeypatch.setattr(cluster, "_MAX_LOGITS", 4 * model.config.head.prototypes)
    tokens = np.random.default_rng(0).normal(size=(11, 16)).astype(np.float32)
    expected = np.argmax(jax.device_get(model.logits(params, tokens)[0]), axis=1)
    found = cluster.assign_by_head(model, params["head"], tokens)
    np.testing.assert_array_equal(found, expected)


def test_the_task_reports_both_methods(evaluate, tmp_path):
    status, out, err = evaluate("cluster", "--features=pixels")
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / "out/cluster.json").read_text())
    head, kmeans = report["rows"]
    assert (head["by"], head["clusters"]) == ("head", 12) and 1 <= head["used"] <= 12
    assert (kmeans["by"], kmeans["clusters"], kmeans["used"]) == ("kmeans", 3, 3)
    assert report["metrics"]["kmeans/accuracy"] == 100  # of three colours
    assert "kmeans" in out


def test_mistakes_are_told(evaluate, workdir, tmp_path):
    export.export(workdir, str(tmp_path / "bare.npz"), to="npz")
    bare = f"--from={tmp_path / 'bare.npz'}"
    status, _, err = evaluate("cluster", bare)
    assert status == 2 and "holds no head; export it anew with --head" in err
    assert evaluate("cluster", bare, "--by=kmeans")[0] == 0
    status, _, err = evaluate("cluster", "--clusters=16")
    assert status == 2 and "--clusters=16 is more than the 15 images of --test-split=test" in err
    status, _, err = evaluate("cluster", "--by=magic")
    assert status == 2 and "argument --by: 'magic' is none of head, kmeans" in err
