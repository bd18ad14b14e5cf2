"""A look at images before a training: what is counted and measured, against NumPy and by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from ibot_jax.tools import data

FLAGS = ("--config=configs/digits.py", "--config.data.channels=3", "--config.data.mean=0.5,0.5,0.5")
FLAGS = (*FLAGS, "--config.data.std=0.5,0.5,0.5")


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of two classes: five images, two of them alike, a grey one, and no image."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for number in range(6):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), np.uint8)
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        if number == 5:
            image = image.convert("L")
        image.save(root / "ab"[number % 2] / f"{number}.png")
    (root / "a/4.png").write_bytes((root / "a/0.png").read_bytes())
    (root / "b/9.png").write_bytes(b"no image")
    return root


def test_what_is_told_is_what_is_there(folder, tmp_path, capsys):
    out, report = tmp_path / "sheet.png", tmp_path / "report.json"
    assert data.main([str(folder), *FLAGS, f"--out={out}", f"--json={report}"]) == 0
    shown, err = capsys.readouterr()
    assert err == ""
    found = json.loads(report.read_text())
    assert (found["images"], found["read"], found["classes"]) == (7, 6, 2)
    assert found["images_of_a_class"] == [3, 4] and found["splits_to_test_on"] == []
    assert found["heights"] == [30, 31, 35] and found["widths"] == [40, 40, 40]
    assert found["modes"] == {"RGB": 5, "L": 1}
    ((name, reason),) = found["bad"]
    assert name.endswith("b/9.png") and reason in shown
    ((copy, first),) = found["twice"]
    assert copy.endswith("a/4.png") and first.endswith("a/0.png")
    pixels = [
        np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) / 255
        for path in sorted(folder.rglob("[0-5].png"))
    ]
    pixels = np.concatenate(pixels)
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found["std"], pixels.std(axis=0), atol=1e-4)
    assert f"--config.data.mean={','.join(map(str, found['mean']))} --config.data.std=" in shown
    picture = Image.open(out)
    assert picture.width > 3 * 96 and np.asarray(picture).std() > 0


def test_some_of_many_are_read(folder, capsys):
    assert data.main([f"folder:{folder}", *FLAGS, "--number=2"]) == 0
    assert "7 images of folder:" in (shown := capsys.readouterr().out)
    assert "1 were read, 1 cannot be" in shown  # the first and the last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("/nowhere",), "data.source='folder:/nowhere' is no folder"),
        (("digits", "--split=val"), "--split='val' is not in data.source='digits'"),
        (("digits", "--out=sheet"), "--out=sheet does not say its format"),
        (("tar:/nowhere/*.tar",), "names no file"),
    ],
)
def test_mistakes_are_told(words, message, capsys):
    assert data.main([*words, *FLAGS]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_nothing_but_bad_images_is_no_success(tmp_path, capsys):
    (tmp_path / "1.png").write_bytes(b"x")
    assert data.main([str(tmp_path), *FLAGS]) == 1
    assert "0 were read, 1 cannot be" in capsys.readouterr().out
