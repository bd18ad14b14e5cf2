"""A set is told by the number and the names of its images."""

import hashlib
import os
import shutil

from PIL import Image

from ibot_jax.data.sources.identity import fingerprint, identify
from ibot_jax.data.sources.opening import open_source


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


def test_a_fingerprint_tells_another_picture_behind_the_same_name(tmp_path, monkeypatch):
    for name in "ab":
        picture(tmp_path / f"pictures/x/{name}.png")

    def now(path="pictures"):
        monkeypatch.chdir(tmp_path)
        return fingerprint(open_source(f"folder:{path}", "train"))

    before = now()
    assert now(f"{tmp_path}/pictures") == now("./pictures") == before  # however it is called
    file = tmp_path / "pictures/x/a.png"
    times = file.stat()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    touched = now()
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    longer = now()
    shutil.copytree(tmp_path / "pictures", tmp_path / "copy")
    (tmp_path / "pictures/x").rename(tmp_path / "pictures/y")
    assert len({before, touched, longer, now("copy"), now()}) == 5
