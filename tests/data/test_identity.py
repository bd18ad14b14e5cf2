"""A set is told by the number and the names of its images."""

import hashlib
import shutil

from PIL import Image

from ibot_jax.data.identity import identify
from ibot_jax.data.sources import open_source


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2)).save(path)


def of(folder):
    return identify(open_source(f"folder:{folder}", "train"))


def test_names_are_hashed_relative_to_the_folder_in_their_order(tmp_path):
    picture(tmp_path / "here/b/2.png")
    picture(tmp_path / "here/a/1.png")
    names = hashlib.sha256(b"a/1.png\0b/2.png\0").hexdigest()
    assert of(tmp_path / "here") == {"images": 2, "names": names}
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert of(tmp_path / "there") == of(tmp_path / "here")


def test_a_set_that_grew_shrank_or_was_replaced_is_another(tmp_path):
    for name in "abc":
        picture(tmp_path / f"x/{name}.png")
    before = of(tmp_path)
    (tmp_path / "x/c.png").rename(tmp_path / "x/d.png")
    replaced = of(tmp_path)
    assert (replaced["images"], replaced["names"] != before["names"]) == (3, True)
    (tmp_path / "x/d.png").unlink()
    assert of(tmp_path)["images"] == 2


def test_sources_without_files():
    assert identify(open_source("synthetic:7", "train"))["images"] == 7
    train, test = (identify(open_source("digits", split)) for split in ("train", "test"))
    assert train["names"] != test["names"]
