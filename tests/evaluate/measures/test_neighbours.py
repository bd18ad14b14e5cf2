"""k-NN: the original's numbers to the digit, and properties by hand."""

import jax
import numpy as np
import pytest

from ibot_jax.evaluate.measures import neighbours
from ibot_jax.parallel.mesh import make_mesh


@pytest.fixture(params=[(1, {}), (8, {}), (8, {"fsdp": 2, "tensor": 2})], ids=str)
def mesh(request):
    devices, axes = request.param
    return make_mesh(jax.devices()[:devices], **axes)


def knn(train, labels, queries, k, temperature, mesh, num_classes=3):
    """Returns the ranking for one k and one temperature."""
    ranked = neighbours.weighted_knn(
        np.asarray(train, np.float32),
        np.asarray(labels),
        np.asarray(queries, np.float32),
        ks=(k,),
        temperatures=(temperature,),
        num_classes=num_classes,
        mesh=mesh,
    )
    return ranked[k, temperature]


def filled(ranking):
    """Puts the classes that have no vote behind the others, by number, as the original does."""
    rows = [[*row[row >= 0], *np.setdiff1d(np.arange(10), row)] for row in ranking]
    return np.array([row[:5] for row in rows])


@pytest.mark.parametrize("max_entries", [2**27, 2000 * 64])
def test_accuracies_are_those_of_the_original(reference, mesh, monkeypatch, max_entries):
    """At every k from one search, on one device and on eight, in one chunk of queries and many."""
    data = np.load(reference("knn.npz"))
    monkeypatch.setattr(neighbours, "_MAX_ENTRIES", max_entries)
    ks = (1, 10, 20, 100)
    ranked = neighbours.weighted_knn(
        data["train"],
        data["train_labels"],
        data["test"],
        ks=ks,
        temperatures=(0.07,),
        num_classes=10,
        mesh=mesh,
    )
    for k in ks:
        assert ranked[k, 0.07].shape == (500, 5)
        measured = neighbours.accuracy(filled(ranked[k, 0.07]), data["test_labels"])
        np.testing.assert_allclose(measured, data[f"k{k}"], atol=1e-9, err_msg=f"k = {k}")


def test_rankings_are_those_of_a_loop_in_numpy(mesh):
    """Every k and temperature of one search; 53 features fill no whole number of devices."""
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(53, 5)), rng.normal(size=(11, 5))
    labels = rng.integers(0, 7, 53)
    ks, temperatures = (1, 2, 4, 30), (0.002, 0.07, 0.5)
    ranked = neighbours.weighted_knn(
        train.astype(np.float32),
        labels,
        queries.astype(np.float32),
        ks=ks,
        temperatures=temperatures,
        num_classes=7,
        mesh=mesh,
    )
    assert set(ranked) == {(k, t) for k in ks for t in temperatures}
    for (k, temperature), classes in ranked.items():
        for query, ranking in zip(queries, classes, strict=True):
            similarity = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
            nearest = np.argsort(-similarity)[:k]
            votes = np.zeros(7)
            np.add.at(votes, labels[nearest], np.exp(similarity[nearest] / temperature))
            expected = [c for c in np.argsort(-votes, kind="stable") if c in labels[nearest]]
            np.testing.assert_array_equal(ranking, (expected + [-1] * 5)[:5])


def test_top_5_of_one_neighbour_is_top_1(mesh):
    """And of two neighbours it counts two classes at most, though there are ten."""
    rng = np.random.default_rng(1)
    train, queries = (rng.normal(size=(n, 4)).astype(np.float32) for n in (60, 200))
    labels, truth = rng.integers(0, 10, 60), rng.integers(0, 10, 200)
    of_one, of_two = (knn(train, labels, queries, k, 0.07, mesh, num_classes=10) for k in (1, 2))
    similarity = queries @ (train / np.linalg.norm(train, axis=1, keepdims=True)).T
    nearest = labels[np.argsort(-similarity, axis=1)]
    top1 = 100 * np.mean(nearest[:, 0] == truth)
    assert neighbours.accuracy(of_one, truth) == pytest.approx((top1, top1))
    top2 = 100 * np.mean((nearest[:, :2] == truth[:, None]).any(axis=1))
    assert neighbours.accuracy(of_two, truth)[1] == pytest.approx(top2)


def test_images_without_a_label_neither_vote_nor_count(mesh):
    train = [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]
    ranked = knn(train, [-1, 1, 0, -1], [[1, 0], [0, 1], [1, 0]], 2, 0.07, mesh)
    np.testing.assert_array_equal(ranked, [[1, 0, -1], [0, 1, -1], [1, 0, -1]])
    assert neighbours.accuracy(ranked, [1, 1, -1]) == (50.0, 100.0)
    with pytest.raises(ValueError, match="the 2 training features that vote"):
        knn(train, [-1, 1, 0, -1], [[1, 0]], 3, 0.07, mesh)


def test_of_equally_near_ones_the_first_votes(mesh):
    train = np.ones((20, 2))
    labels = [2] + [1] * 19
    np.testing.assert_array_equal(knn(train, labels, [[1, 1]], 1, 0.07, mesh)[0, 0], 2)
    np.testing.assert_array_equal(knn(train[::-1], labels[::-1], [[1, 1]], 1, 0.07, mesh)[0, 0], 1)


def test_near_neighbours_outvote_many_far_ones(mesh):
    """One neighbour at similarity 1 against three at 0: exp(1 / 0.5) = 7.4 > 3 votes."""
    train = [[1, 0], [0, 1], [0, 1], [0, 1]]
    labels = [1, 0, 0, 0]
    query = [[5, 0]]  # length does not matter, only direction
    np.testing.assert_array_equal(knn(train, labels, query, 4, 0.5, mesh), [[1, 0, -1]])
    np.testing.assert_array_equal(knn(train, labels, query, 4, 2.0, mesh), [[0, 1, -1]])  # 1.6 < 3


def test_a_low_temperature_does_not_overflow(mesh):
    """exp(1 / 0.005) is beyond float32; the ranking is that of the single nearest neighbour."""
    train = [[1, 0], [0.99, 0.1], [0.98, 0.2]]
    assert knn(train, [2, 0, 0], [[1, 0.02]], 3, 0.005, mesh)[0, 0] == 2


def test_more_neighbours_than_images_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"ks=\(3,\) .* 2"):
        knn(np.eye(2), [0, 1], np.eye(2), 3, 0.07, mesh)


def test_leaving_one_out_is_searching_without_it(mesh):
    """Query by query, as with a bank that lacks the features of its number."""
    rng = np.random.default_rng(2)
    train = rng.normal(size=(30, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 30)
    numbers = np.array([0, 1, 2, 1, *[-1] * 26])  # of the second, there are two
    queries = np.concatenate([train[:3], rng.normal(size=(2, 4)).astype(np.float32)])
    own = np.array([0, 1, 2, -1, -1])
    options = dict(ks=(1, 5), temperatures=(0.07,), num_classes=3, mesh=mesh)
    together = neighbours.weighted_knn(train, labels, queries, left_out=(numbers, own), **options)
    for row, (query, number) in enumerate(zip(queries, own, strict=True)):
        rest = (numbers != number) | (numbers < 0)
        alone = neighbours.weighted_knn(train[rest], labels[rest], query[None], **options)
        for setting, ranking in alone.items():
            np.testing.assert_array_equal(together[setting][row], ranking[0])
    with pytest.raises(ValueError, match="the 28 training features that vote"):
        neighbours.weighted_knn(
            train, labels, queries, left_out=(numbers, own), **options | {"ks": (29,)}
        )


def test_the_nearest_are_those_of_numpy(mesh, monkeypatch):
    """In chunks of queries, and of 29 features, which fill no whole number of devices."""
    monkeypatch.setattr(neighbours, "_MAX_ENTRIES", 64)
    rng = np.random.default_rng(3)
    features, queries = (rng.normal(size=(n, 5)).astype(np.float32) for n in (29, 11))
    cosines, rows = neighbours.nearest(features, queries, k=4, mesh=mesh)
    lengths = [np.linalg.norm(x, axis=1) for x in (queries, features)]
    every = queries @ features.T / np.outer(*lengths)
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1)[:, :4])
    np.testing.assert_allclose(cosines, -np.sort(-every, axis=1)[:, :4], atol=1e-6)
    with pytest.raises(ValueError, match="k=30 is not between 1 and the 29 features"):
        neighbours.nearest(features, queries, k=30, mesh=mesh)


def test_votes_are_shares_of_the_weights():
    cosines = np.array([[0.9, 0.8, 0.5], [0.3, 0.3, 0.3]])
    weights = np.exp(cosines / 0.1)
    weights /= weights.sum(axis=1, keepdims=True)
    labels = np.array([[2, 0, 2], [1, 1, 0]])
    found = neighbours.votes(cosines, labels, temperature=0.1, num_classes=4)
    expected = [
        [weights[0, 1], 0, weights[0, 0] + weights[0, 2], 0],
        [weights[1, 2], weights[1, 0] + weights[1, 1], 0, 0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    several = np.eye(4, dtype=np.int8)[labels]
    several[0, 0, 3] = 1  # the nearest of the first shows two classes
    several[1, 2, 2] = -1  # which does not count
    found = neighbours.votes(cosines, several, temperature=0.1, num_classes=4)
    expected[0][3] = weights[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
