"""Masks of a folder: whole ones are not found again, whatever ended the command before."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from ibot_jax.data.pixels.decoding import Decoding
from ibot_jax.data.sources.unlabelled import open_images
from ibot_jax.errors import UserError
from ibot_jax.evaluate.predictions import require_new_or_unfinished, write_predictions
from ibot_jax.evaluate.probes.pixel_model import PixelModel

NAMES = ("a/0", "a/1", "b/2", "b/3", "b/4")
ABOUT = {"report": "1a", "images": "2b"}


@pytest.fixture
def images(tmp_path):
    """Returns a source of images, each of one colour, its number; the fourth is none."""
    for number, name in enumerate(NAMES):
        path = tmp_path / f"images/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(path)
    (tmp_path / "images/b/3.png").write_bytes(b"no image")
    return open_images(str(tmp_path / "images"), None, 3)


def make_model(seen, most=99):
    """Finds ten times the first channel; notes what it has seen, and is ended after `most`."""

    def find(images):
        for pixels in images:
            if len(seen) == most:
                raise KeyboardInterrupt
            seen.append(int(pixels[0, 0, 0]))
            yield 10 * pixels[..., 0]

    return PixelModel(
        finds="masks",
        values="",
        find=find,
        as_image=Image.fromarray,
        as_colors=lambda found: np.repeat(found[..., None], 3, axis=2),
        program=None,
        size=(4, 6),
        takes="",
        gives="",
    )


def values(folder):
    paths = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    return {str(p.relative_to(folder))[:-4]: np.unique(Image.open(p)).tolist() for p in paths}


def test_an_interrupted_command_goes_on_with_what_is_left(images, tmp_path):
    out, first, second = epath.Path(tmp_path / "out"), [], []
    with pytest.raises(KeyboardInterrupt):
        write_predictions(make_model(first, most=2), images, Decoding(), out, 1, ABOUT)
    assert first == [0, 1] and values(tmp_path / "out/masks") == {"a/0": [0], "a/1": [10]}
    (out / "masks/a/.1.0123abcd.png").write_bytes(b"half")  # as a kill would leave it
    (out / "masks/a/1.png").unlink()
    require_new_or_unfinished(out, overwrite=False)
    with pytest.raises(UserError, match="out is of other report, and not finished; remove it"):
        write_predictions(make_model([]), images, Decoding(), out, 1, ABOUT | {"report": "3c"})
    assert write_predictions(make_model(second), images, Decoding(), out, 1, ABOUT) == 4
    assert second == [1, 2, 4]
    assert values(tmp_path / "out/masks") == {"a/0": [0], "a/1": [10], "b/2": [20], "b/4": [40]}
    assert list(values(tmp_path / "out/pictures")) == ["a/0"]
    with pytest.raises(UserError, match="exists; choose another path, or --overwrite"):
        require_new_or_unfinished(out, overwrite=False)


def test_a_picture_that_is_not_there_yet_is_made(images, tmp_path):
    """Between the mask and the picture of an image a command may end, too."""
    out, seen = epath.Path(tmp_path / "out"), []
    with pytest.raises(KeyboardInterrupt):
        write_predictions(make_model([], most=2), images, Decoding(), out, 2, ABOUT)
    (out / "pictures/a/1.png").unlink()
    write_predictions(make_model(seen), images, Decoding(), out, 2, ABOUT)
    assert seen == [1, 2, 4] and values(tmp_path / "out/pictures")["a/1"] == [1, 10]


def test_what_is_overwritten_is_not_taken_for_whole(images, tmp_path):
    out, first, second = epath.Path(tmp_path / "out"), [], []
    write_predictions(make_model([]), images, Decoding(), out, 0, ABOUT)
    (out / "mine.txt").write_text("stays")
    other = ABOUT | {"report": "3c"}
    with pytest.raises(KeyboardInterrupt):
        write_predictions(make_model(first, most=1), images, Decoding(), out, 0, other)
    assert values(tmp_path / "out/masks") == {"a/0": [0]}
    assert write_predictions(make_model(second), images, Decoding(), out, 0, other) == 4
    assert (first, second) == ([0], [1, 2, 4]) and (out / "mine.txt").read_text() == "stays"


def test_an_unfinished_file_that_is_damaged_is_told(images, tmp_path):
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    (out / "unfinished.json").write_text("[")
    with pytest.raises(UserError, match="unfinished.json is damaged"):
        write_predictions(make_model([]), images, Decoding(), out, 0, ABOUT)
