"""LOST and TokenCut against plain twins of their papers, and on planted objects."""

import numpy as np
import pytest
from scipy.linalg import eigh

from ibot_jax.errors import UserError
from ibot_jax.evaluate.measures import objects


def reached(seed, inside, grid):
    """Returns the box of the patches that can be walked to from the seed, side by side."""
    todo, seen = [divmod(seed, grid[1])], set()
    while todo:
        row, column = place = todo.pop()
        within = 0 <= row < grid[0] and 0 <= column < grid[1]
        if place in seen or not within or not inside[row * grid[1] + column]:
            continue
        seen.add(place)
        todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    rows, columns = zip(*seen, strict=True)
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1


def lost_by_hand(features, patches):
    grid, flat = features.shape[:2], features.reshape(-1, features.shape[-1])
    number = len(flat)
    products = [[float(np.dot(p, q)) for q in flat] for p in flat]
    degrees = [sum(products[p][q] > 0 for q in range(number) if q != p) for p in range(number)]
    order = sorted(range(number), key=lambda p: (degrees[p], p))
    joined = [p for p in order[:patches] if products[order[0]][p] > 0]
    inside = [sum(products[p][q] for p in joined) > 0 for q in range(number)]
    return reached(order[0], inside, grid)


def token_cut_by_hand(features, threshold):
    grid, flat = features.shape[:2], features.reshape(-1, features.shape[-1])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    weights = np.where(unit @ unit.T > threshold, 1, 1e-5)
    degrees = np.diag(weights.sum(1))
    vector = eigh(degrees - weights, degrees)[1][:, 1]
    seed = int(np.abs(vector).argmax())
    above = vector > vector.mean()
    return reached(seed, above == above[seed], grid)


@pytest.mark.parametrize("seed", range(6))
def test_objects_are_those_of_the_papers(seed):
    """Features that vary smoothly, so that there are parts; some are as unlike as noise."""
    rng = np.random.default_rng(seed)
    corners = rng.normal(size=(3, 4, 6))
    features = corners.repeat(3, axis=0).repeat(3, axis=1) + rng.normal(size=(9, 12, 6)) * 0.3
    for patches in (5, 40):
        assert objects.lost(features, patches=patches) == lost_by_hand(features, patches)
    for threshold in (0.0, 0.2):
        found = objects.token_cut(features, threshold=threshold)
        assert found == token_cut_by_hand(features, threshold)


@pytest.mark.parametrize("find", [objects.lost, objects.token_cut])
def test_a_planted_object_is_found(find):
    rng = np.random.default_rng(1)
    features = np.zeros((12, 15, 8))
    features[..., 0] = 1
    features[3:8, 5:11] = [-1, 1, 0, 0, 0, 0, 0, 0]
    assert find(features + 0.05 * rng.normal(size=features.shape)) == (3, 5, 8, 11)


def test_patches_that_hang_together_by_a_corner_are_apart():
    features = -np.ones((6, 6, 1))
    features[:2, :2] = features[2:4, 2:4] = 1
    assert objects.lost(features) in ((0, 0, 2, 2), (2, 2, 4, 4))


def test_too_few_patches_are_told():
    with pytest.raises(UserError, match="1x2 patches are too few"):
        objects.token_cut(np.ones((1, 2, 3)))


def test_overlaps_by_hand():
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 4, 4]], float)
    found = objects.overlaps(np.array([0, 0, 10, 10], float), others)
    np.testing.assert_allclose(found, [1, 50 / 150, 0, 4 / 100])
