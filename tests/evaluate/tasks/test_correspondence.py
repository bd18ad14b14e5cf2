"""Correspondence: patches that are found by hand, pictures that tell places, and the task."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ibot_jax.evaluate import __main__ as command
from ibot_jax.evaluate.tasks import correspondence
from ibot_jax.models.tokens import Tokens

SIZE = (32, 32)


def windows(*views):
    """Returns the windows of (top, left, height, width, mirrored), stacked."""
    return correspondence.Windows(*map(np.array, zip(*views, strict=True)))


def at(found, index):
    return correspondence.Windows(*(x[index] for x in found))


@pytest.mark.parametrize("mirrored", [False, True])
def test_patches_are_looked_for_where_they_went(mirrored):
    """Of a view, its right half again, twice as large: each patch there is four patches."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4, 4, 8)).astype(np.float32)
    second = first[:2, 2:].repeat(2, axis=0).repeat(2, axis=1)
    if mirrored:
        second = second[:, ::-1]
    pair = windows((0.0, 0.0, 1.0, 1.0, False), (0.0, 0.5, 0.5, 0.5, mirrored))
    # Four patches are shown; each is nearest to four equal ones, the first of which is taken, while
    # its middle, where the four meet, belongs to the last one: beside it.
    found = correspondence.count_found(first, second, at(pair, 0), at(pair, 1))
    assert tuple(map(float, found)) == (4, 0, 4)
    # The other way round all sixteen are shown, four in each patch.
    found = correspondence.count_found(second, first, at(pair, 1), at(pair, 0))
    assert tuple(map(float, found)) == (16, 16, 16)


def test_patches_that_do_not_tell_places_are_not_found():
    same = np.ones((4, 4, 8), np.float32)
    pair = windows((0.0, 0.0, 1.0, 1.0, False), (0.0, 0.0, 1.0, 1.0, False))
    found = correspondence.count_found(same, same, at(pair, 0), at(pair, 1))
    assert tuple(map(float, found)) == (16, 1, 4)  # all fall on the first patch
    beside = windows((0.0, 0.0, 0.4, 0.4, False), (0.5, 0.5, 0.4, 0.4, False))
    found = correspondence.count_found(same, same, at(beside, 0), at(beside, 1))
    assert tuple(map(float, found)) == (0, 0, 0)


def test_views_are_cut_as_pillow_does():
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
    view = windows((0.25, 0.125, 0.5, 0.75, False), (0.0, 0.0, 1.0, 1.0, True))
    found = correspondence.cut(np.stack([np.asarray(picture)] * 2), view, SIZE)
    box = picture.resize(SIZE, Image.Resampling.BICUBIC, box=(8, 16, 56, 48))
    whole = picture.resize(SIZE, Image.Resampling.BICUBIC).transpose(Image.FLIP_LEFT_RIGHT)
    for pixels, expected in zip(np.asarray(found), (box, whole), strict=True):
        off = np.abs(pixels.astype(int) - np.asarray(expected))
        # Outside the box Pillow sees nothing; what is inside is the same filter.
        assert off[2:-2, 2:-2].max() <= 3 and off.mean() < 1


def test_where_colours_tell_places_patches_are_found():
    """Tokens that are mean colours, of pictures whose colours say where a pixel is."""
    y, x = np.mgrid[:64, :64] * 4
    pictures = np.stack([np.stack([y, x, np.full_like(x, 128)], -1).astype(np.uint8)] * 70)

    def features(params, images):
        patches = images.astype(jnp.float32).reshape(-1, 4, 8, 4, 8, 3).mean((2, 4))
        centered = patches - jnp.array([128.0, 128.0, 0.0])
        return Tokens(jnp.pad(centered.reshape(-1, 16, 3), ((0, 0), (1, 0), (0, 0))), (4, 4))

    model = types.SimpleNamespace(features=features)
    find = correspondence.make_finder(model, correspondence.draw_windows(0), SIZE)
    sought, exact, near = find({}, pictures)
    assert sought.shape == (70,) and (sought[:6] == sought[64:]).all()  # pairs go round
    assert (sought <= 16).all() and sought.mean() > 6
    assert near.sum() == sought.sum() and exact.sum() > 0.6 * sought.sum()


def test_the_task_needs_no_labels(workdir, images, tmp_path, capsys):
    named = f"--from={workdir}", f"--data=folder:{images}/train", f"--out={tmp_path}"
    assert command.main(["correspondence", *named, "--batch-size=8", "--seed=3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads((tmp_path / "correspondence.json").read_text())
    (row,) = report["rows"]
    assert 0 <= report["metrics"]["exact"] <= report["metrics"]["near"] <= 100
    assert row["chance"] == 100 / 16 and "near" in out
