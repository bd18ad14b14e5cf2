"""Correspondences of a shifted image are offset by the shift, and are drawn where they are."""

import flax.traverse_util
import numpy as np
import pytest
from PIL import Image
from planted import PATCH, color_config, save_images, save_model

from ibot_jax.visualize import correspondence
from ibot_jax.visualize.__main__ import main
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model


@pytest.fixture(scope="module")
def model():
    """A model without blocks and positions: tokens are random projections of patches."""
    model, params = untrained(Model(color_config(model__width=32), "projection"))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    flat = {name: np.array(leaf) for name, leaf in flat.items()}
    flat["backbone/pos_embed"][:] = 0
    return model, flax.traverse_util.unflatten_dict(flat, sep="/")


def noise(rows, columns, seed=0):
    shape = (rows * PATCH, columns * PATCH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_matches_of_a_shifted_image_are_offset_by_the_shift(model):
    """By one row and two columns of patches; what only one of the two shows has no match."""
    model, params = model
    scene = noise(8, 9)
    first, second = scene[: 6 * PATCH, : 7 * PATCH], scene[PATCH : 7 * PATCH, 2 * PATCH :]
    tokens = [np.asarray(model.tokens(params, view[None]))[0, 1:] for view in (first, second)]
    matches = correspondence.mutual_matches(*tokens, number=25)
    assert len(matches.first) == 5 * 5  # the overlap: 5 rows, 5 columns
    start, end = (np.stack(np.divmod(patches, 7)) for patches in matches[:2])
    np.testing.assert_array_equal(start - end, np.repeat([[1], [2]], 25, axis=1))
    np.testing.assert_allclose(matches.similarity, 1, atol=1e-5)


def test_only_mutual_neighbours_match_and_the_best_come_first():
    """Angles in degrees: 40 is nearest to 30, whose own nearest is 28."""
    first, second = (
        np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
        for angles in (np.array([0.0, 28.0, 40.0, 90.0]), np.array([3.0, 30.0, 91.0]))
    )
    matches = correspondence.mutual_matches(7 * first, 0.1 * second, number=9)  # length is nothing
    np.testing.assert_array_equal(matches.first, [3, 1, 0])
    np.testing.assert_array_equal(matches.second, [2, 1, 0])
    np.testing.assert_allclose(matches.similarity, np.cos(np.radians([1, 2, 3])))
    assert len(correspondence.mutual_matches(first, second, number=2).first) == 2


def test_lines_join_the_middles_of_patches():
    pair = np.full((16, 16, 3), 255, np.uint8), np.full((16, 16, 3), 255, np.uint8)
    matches = correspondence.Matches(np.array([0]), np.array([7]), np.array([1.0]))
    picture = np.asarray(correspondence.draw_pair(pair, matches, [(4, 4)] * 2, cell=64)).astype(int)
    assert picture.shape == (64, 64 + 4 + 64, 3)  # a gap of 4
    ink = (picture < 200).any(axis=-1)
    start, end = np.array([8, 8]), np.array([24, 68 + 56])  # row, column
    places = np.argwhere(ink)
    along = (places - start) @ (end - start) / np.sum((end - start) ** 2)
    distance = np.linalg.norm(places - start - along[:, None] * (end - start), axis=1)
    assert distance.max() < 4 and along.min() > -0.05 and along.max() < 1.05
    middle = (start + end) // 2
    assert ink[tuple(start)] and ink[tuple(end)] and ink[tuple(middle)]


def test_the_command_pairs_images_by_order_by_class_and_by_views(model, tmp_path, capsys):
    export = save_model(tmp_path / "model.npz", *model)
    scene = noise(5, 4)
    shifted = scene[:16], scene[4:]
    for name in ("a", "b"):
        save_images(tmp_path / "images" / name, *shifted)
    out = tmp_path / "figure.png"
    flags = [f"--from={export}", "--size=16", "--cell=32", f"--out={out}"]
    given = [f"{tmp_path}/images/a/{name}.png" for name in ("000", "001")]
    figures = {}
    for pairs, images in (("given", given), ("class", [f"{tmp_path}/images"])):
        command = ["correspondence", *flags, f"--pairs={pairs}", "--data", *images]
        assert main(command) == 0, capsys.readouterr().err
        figures[pairs] = np.asarray(Image.open(out))
    pair = figures["given"][9:-9, 9:-9]
    np.testing.assert_array_equal(figures["class"][9:-9, 9 : 9 + pair.shape[1]], pair)
    assert main(["correspondence", *flags, "--data", given[0]]) == 0  # two views
    views = np.asarray(Image.open(out))
    assert main(["correspondence", *flags, "--seed=1", "--data", given[0]]) == 0
    assert views.shape == np.asarray(Image.open(out)).shape  # other crops of the same size
    assert (views != np.asarray(Image.open(out))).any()

    capsys.readouterr()
    for wrong, words in (
        (["--pairs=given", f"--data={given[0]}"], "is one image; --pairs=given needs two"),
        (["--pairs=class", f"--data={tmp_path}/images/a"], "has no class folders"),
        (["--number=65", f"--data={tmp_path}/images"], "more than 64"),
    ):
        assert main(["correspondence", *flags, *wrong]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
