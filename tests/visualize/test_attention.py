"""Attention: what a planted model looks at, the smallest set that holds it, and what is drawn."""

import itertools

import numpy as np
import pytest
from PIL import Image
from planted import looking_model, patchwork, save_images, save_model

from ibot_jax.visualize import attention
from ibot_jax.visualize.__main__ import main

LIGHT = (1, 2)  # row and column of the one light patch
IMAGE = patchwork({LIGHT: "red"})
PEAK = np.exp(6 / np.sqrt(8))  # over 1 of a black patch: query 3 times key 2, scaled by sqrt(8)


def last_row(figure, column):
    """Returns a panel of the last row of a sheet of 32-pixel panels, from the middle of a patch."""
    margin, gap = 9, 3
    left = margin + column * (32 + gap)
    return figure[-margin - 32 : -margin, left : left + 32][4:, 4:]


@pytest.fixture(scope="module")
def attend():
    return attention.attention_fn(*looking_model())


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("planted") / "model.npz", *looking_model())


def test_attention_is_that_of_the_planted_query_and_sums_to_one(attend):
    expected = np.ones((1, 4, 4))
    expected[0][LIGHT] = PEAK
    np.testing.assert_allclose(attend(IMAGE), expected / expected.sum(), rtol=1e-3)
    wide = attend(patchwork({LIGHT: "red", (5, 5): "blue"}, side=24)[:16])  # another shape
    assert wide.shape == (1, 4, 6)
    np.testing.assert_allclose(wide.sum(), 1, rtol=1e-5)
    assert np.unravel_index(wide.argmax(), wide.shape) == (0, *LIGHT)


@pytest.mark.parametrize("mass", [0.1, 0.6, 0.95, 1.0])
def test_the_mass_set_is_the_smallest_that_holds_its_share(mass):
    """By trying all subsets of a 3 x 3 map."""
    values = np.random.default_rng(0).random((2, 3, 3))
    chosen = attention.mass_set(values, mass)
    for value, mask in zip(values, chosen, strict=True):
        enough = mass * value.sum() - 1e-12
        assert value[mask].sum() >= enough
        smaller = itertools.combinations(value.ravel(), mask.sum() - 1)
        assert all(sum(subset) < enough for subset in smaller)


def test_the_spotlight_darkens_the_rest_and_nothing_else():
    chosen = np.zeros((4, 4), bool)
    chosen[LIGHT] = True
    pixels = np.full((16, 16, 3), 200, np.uint8)
    lit = attention.spotlight(pixels, chosen)
    assert (lit[4:8, 8:12] == 200).all()
    lit[4:8, 8:12] = 40
    assert (lit == 40).all()


def test_patches_of_several_heads_have_the_mean_of_their_colors():
    maps = np.zeros((2, 2, 2))
    maps[0, 0, 0] = maps[1, 1, 1] = 1.0
    shared = maps.copy()
    shared[:, 0, 1] = 2.0  # now the only patch of either
    apart, together = (
        attention.color_heads(np.zeros((4, 4, 3), np.uint8), m, 0.5).astype(float)
        for m in (maps, shared)
    )
    np.testing.assert_allclose(together[0, 2], (apart[0, 0] + apart[3, 3]) / 2, atol=1)
    assert (together[0, 0] == 0).all() and (apart[0, 2] == 0).all()


def test_the_figure_shows_the_image_its_heat_and_the_lit_patch(export, tmp_path, capsys):
    images = save_images(tmp_path / "images", IMAGE, IMAGE)
    out = tmp_path / "new" / "figure.png"
    flags = ["--size=16", "--mass=0.3", "--cell=32", f"--out={out}"]
    assert main(["attention", f"--from={export}", f"--data={images}", *flags]) == 0
    assert capsys.readouterr().out.strip() == f"written to {out}"
    figure = np.asarray(Image.open(out)).astype(int)
    image, mean, head = (last_row(figure, column)[::8, ::8] for column in range(3))
    for panel in (mean, head):
        red = (panel == (255, 0, 0)).all(axis=-1)
        np.testing.assert_array_equal(np.argwhere(red), [LIGHT])
        assert (panel[~red] == 0).all()
    assert (image[LIGHT] > 0).any() and image.sum() == image[LIGHT].sum()
    assert [path.name for path in out.parent.iterdir()] == ["figure.png"]


def test_frames_of_a_folder_and_of_an_animation(export, tmp_path, capsys):
    positions = [(0, 0), (1, 1), (2, 2), (3, 3)]
    images = [patchwork({position: "red"}) for position in positions]
    folder = save_images(tmp_path / "video", *images)
    first, *others = (Image.fromarray(image) for image in images)
    first.save(tmp_path / "video.gif", save_all=True, append_images=others)
    drawn = {}
    for kind, path, format_ in (
        ("folder", folder, "webp"),
        ("animation", f"{tmp_path}/video.gif", "gif"),
    ):
        out = tmp_path / kind
        flags = ["--frames", "--size=16", "--mass=0.2", "--cell=32", f"--animation={format_}"]
        command = ["attention", f"--from={export}", f"--data={path}", f"--out={out}", *flags]
        assert main(command) == 0
        names = sorted(path.name for path in out.iterdir())
        assert names == [f"0000{i}.png" for i in range(4)] + [f"attention.{format_}"]
        with Image.open(out / f"attention.{format_}") as animation:
            assert animation.n_frames == 4 and animation.info["loop"] == 0
        drawn[kind] = [np.asarray(Image.open(out / f"0000{i}.png")).astype(int) for i in range(4)]
        assert main(command) == 2  # what is there is not overwritten
        assert "new or empty folder" in capsys.readouterr().err
    for frame, same, (row, column) in zip(
        drawn["folder"], drawn["animation"], positions, strict=True
    ):
        np.testing.assert_allclose(frame, same, atol=3)  # a GIF has few colours
        lit = last_row(frame, 2)[::8, ::8]
        np.testing.assert_array_equal(np.argwhere(lit[..., 0] > 200), [(row, column)])


def test_the_animation_of_a_long_video_thins_it(monkeypatch, tmp_path):
    from ibot_jax.visualize import frames

    monkeypatch.setattr(frames, "MAX_ANIMATED", 3)
    pictures = (Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(7))
    assert frames.write(pictures, tmp_path, "webp", fps=10).startswith("7 frames")
    with Image.open(tmp_path / "attention.webp") as animation:
        assert animation.n_frames == 3  # 0, 3 and 6
        animation.seek(1)
        animation.load()
        assert animation.info["duration"] == 300  # milliseconds: as long as three of them


def test_labels_name_every_head():
    model, params = looking_model(model__heads=2)
    pictures = [IMAGE]
    two = attention.draw(pictures, attention.attention_fn(model, params), 0.6, cell=32)
    one = attention.draw(pictures, attention.attention_fn(*looking_model()), 0.6, cell=32)
    assert two.width - one.width == 32 + 3  # a column more
