"""Pattern layout: planted prototypes select the planted patches, framed amid their surroundings."""

import numpy as np
import pytest
from PIL import Image
from planted import color_model, patchwork, save_images, save_model
from tiny import tiny_config

from ibot_jax.visualize import patterns
from ibot_jax.visualize.__main__ import main
from ibot_jax.weights.load import untrained
from ibot_jax.weights.model import Model

# A patch of each colour in other places; prototypes 0, 1, 2 mean red, green and blue.
IMAGES = [
    patchwork({(0, 0): "red", (2, 1): "blue"}),
    patchwork({(3, 3): "orange"}),
    patchwork({(1, 2): "green", (1, 1): "blue"}),
]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("planted") / "model.npz", *color_model())


def draw(export, tmp_path, *flags):
    """Returns the figure as integers; one patch is a thumbnail of 32 pixels."""
    images = save_images(tmp_path / "images", *IMAGES)
    out = tmp_path / "patterns.png"
    flags = ["--cell=66", "--top=4", "--context=1", "--temperature=0.1", f"--out={out}", *flags]
    assert main(["patterns", f"--from={export}", f"--data={images}", *flags]) == 0
    return np.asarray(Image.open(out)).astype(int)


@pytest.mark.slow
def test_each_prototype_shows_the_patches_of_its_color(export, tmp_path):
    """In the order of prototypes: blue is in two images, so the mean of its best two is highest."""
    figure = draw(export, tmp_path, "--top=2", "--number=3")
    gap, line = 3, figure.shape[0] - 6 * 3 - 32  # caption above a row of two thumbnails
    thumbnails = figure[3 * gap + line :][:32]
    middles = [
        thumbnails[16, 3 * gap + column * (66 + gap) + offset]
        for column in range(3)
        for offset in (16, 34 + 16)
    ]
    blue, red, green = (0, 0, 255), (255, 0, 0), (0, 255, 0)
    np.testing.assert_array_equal(middles[:4], [blue, blue, red, (255, 80, 0)])
    np.testing.assert_array_equal(middles[4], green)


def test_the_frame_is_around_the_patch():
    """Off centre at the border: patch (3, 0) of 5 x 5, amid 3 x 3 patches, 10 times as large."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[12:16, 0:4] = 255
    picture = np.asarray(patterns.frame_patch(pixels, (12, 0, 16, 4), 3, side=120)).astype(int)
    frame = np.argwhere((picture == patterns._FRAME).all(axis=-1))
    np.testing.assert_array_equal(frame.min(axis=0), [40, 0])  # rows 8 to 20 are shown
    np.testing.assert_array_equal(frame.max(axis=0), [79, 39])
    assert (picture[50:70, 10:30] == 255).all() and picture[100:, 60:].max() == 0


def test_surroundings_are_never_larger_than_the_image():
    pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    picture = patterns.frame_patch(pixels, (8, 12, 12, 16), 9, side=12)
    expected = pixels[:, 4:].copy()  # the rightmost square
    framed = np.asarray(picture)
    np.testing.assert_array_equal(framed[:8], expected[:8])
    assert (framed[8, 8] == patterns._FRAME).all()


@pytest.mark.slow
def test_class_tokens_show_whole_images(tmp_path):
    config = tiny_config(model__depth=1)
    model, params = untrained(Model(config, "random"), head=True)
    export = save_model(tmp_path / "model.npz", model, params)
    figure = draw(export, tmp_path, "--tokens=class", "--prototypes=2", "--top=1", "--cell=16")
    panels = figure[-9 - 16 : -9, 9 : 9 + 16], figure[-9 - 16 : -9, 9 + 19 : 9 + 35]
    for panel in panels:
        assert any((panel == image).all() for image in IMAGES)


@pytest.mark.slow
def test_mistakes_are_one_line(export, tmp_path, capsys):
    model, params = color_model()
    headless = save_model(tmp_path / "headless.npz", model, {"backbone": params["backbone"]})
    images = save_images(tmp_path / "images", *IMAGES)
    out = f"--out={tmp_path / 'figure.png'}"

    def mistake(*flags):
        assert main(["patterns", *flags, out]) == 2
        *skipped, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and all("skipped" in other for other in skipped)
        return line

    line = mistake(f"--from={headless}", f"--data={images}")
    assert "headless.npz holds no head; export it anew with --head" in line
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"x")
    assert "not one of the images of" in mistake(
        f"--from={export}", f"--data={tmp_path / 'broken'}"
    )
