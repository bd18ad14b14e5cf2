"""PCA: the components of scikit-learn, and planted groups of tokens come apart."""

import itertools

import numpy as np
import pytest
from PIL import Image
from planted import color_model, patchwork, save_images, save_model
from sklearn.decomposition import PCA

from ibot_jax.visualize import pca
from ibot_jax.visualize.__main__ import main


def test_components_are_those_of_scikit_learn():
    tokens = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9) + 3
    ours = pca.principal_components(tokens, 3)
    theirs = PCA(3, svd_solver="full").fit(tokens)
    signs = np.sign(np.sum(ours.axes * theirs.components_, axis=1))
    np.testing.assert_allclose(ours.axes * signs[:, None], theirs.components_, atol=1e-9)
    expected = theirs.transform(tokens) * signs
    np.testing.assert_allclose(ours.project(tokens), expected, atol=1e-9)


def test_the_split_leaves_the_least_variance_within_the_groups():
    """By trying every limit between neighbours."""
    rng = np.random.default_rng(0)
    values = rng.permutation(np.concatenate([rng.normal(0, 1, 30), rng.normal(4, 0.5, 10)]))
    ordered = np.sort(values)
    within = {
        i: ordered[:i].var() * i + ordered[i:].var() * (40 - i) for i in range(1, len(ordered))
    }
    limit = ordered[min(within, key=within.get)]
    np.testing.assert_array_equal(pca.split(values), values >= limit)


def test_a_threshold_is_a_share_of_the_range():
    values = np.array([-1.0, 0.0, 2.0, 3.0])
    for threshold, expected in ((0.0, [1, 1, 1, 1]), (0.5, [0, 0, 1, 1]), (1.0, [0, 0, 0, 1])):
        np.testing.assert_array_equal(pca.split(values, threshold), np.array(expected, bool))


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_groups_separate_into_background_and_two_colors(sign):
    """One PCA for images of several shapes: an object of two parts amid a background."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(12, 3)))[0].T
    means = {"ground": 0 * directions[0], "head": sign * 9 * directions[0] + 4 * directions[1]}
    means["body"] = sign * 9 * directions[0] - 4 * directions[1]
    kinds = [np.full((6, 6), "ground"), np.full((5, 8), "ground")]
    for kind in kinds:
        kind[1:3, 1:4], kind[3:4, 1:4] = "head", "body"
    grids = [
        np.array([[means[name] for name in row] for row in kind])
        + 0.1 * rng.normal(size=(*kind.shape, 12))
        for kind in kinds
    ]
    colors = {name: [] for name in means}
    for kind, colored in zip(kinds, pca.color(grids), strict=True):
        assert colored.shape == (*kind.shape, 3)
        for name in means:
            colors[name] += colored[kind == name].astype(int).tolist()
    assert not np.any(colors["ground"])  # all black
    for name in ("head", "body"):
        assert np.any(colors[name], axis=1).all()
    # The second component, green, is what tells head and body apart, and alike in both images.
    greens = [np.array(colors[name])[:, 1] for name in ("head", "body")]
    assert abs(greens[0].mean() - greens[1].mean()) > 200
    assert max(green.std() for green in greens) < 20


def test_the_figure_colors_patches_below_their_image(tmp_path):
    export = save_model(tmp_path / "model.npz", *color_model())
    places = {(1, 1): "red", (1, 2): "green", (2, 1): "blue"}
    images = save_images(tmp_path / "images", patchwork(places), patchwork({}))
    out = tmp_path / "pca.png"
    flags = ["--size=16", "--cell=32", "--threshold=0", f"--out={out}"]
    assert main(["pca", f"--from={export}", f"--data={images}", *flags]) == 0
    figure = np.asarray(Image.open(out)).astype(int)
    assert figure.shape == (9 + 32 + 3 + 32 + 9, 9 + 32 + 3 + 32 + 9, 3)
    colored = figure[44:76, 9:41][4::8, 4::8]
    distinct = [colored[place] for place in (*places, (0, 0))]
    for one, other in itertools.combinations(distinct, 2):
        assert np.abs(one - other).max() > 60  # four kinds of patch, four colours
    empty = figure[44:76, 44:76][4::8, 4::8]
    np.testing.assert_array_equal(empty, np.broadcast_to(colored[0, 0], empty.shape))
