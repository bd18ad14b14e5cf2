"""The command: help, and one clear line and exit status 2 for every mistake."""

import numpy as np
import pytest
from PIL import Image
from planted import looking_model, patchwork, save_images, save_model

from ibot_jax.visualize.__main__ import FIGURES, main


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("planted") / "model.npz", *looking_model())


@pytest.fixture
def images(tmp_path):
    return save_images(tmp_path / "images", patchwork({(0, 0): "red"}))


def error_of(capsys, *argv):
    """Returns the one line that the command ends with."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_help_lists_the_figures(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for figure in FIGURES:
        assert f"\n  {figure} " in listed
        with pytest.raises(SystemExit) as stop:
            main([figure, "--help"])
        assert stop.value.code == 0
        assert "--from" in capsys.readouterr().out


def test_mistakes_are_one_line(export, images, tmp_path, capsys):
    def mistake(*flags, figure="attention", model=export, shown=images, out="figure.png"):
        options = [f"--from={model}", f"--data={shown}", f"--out={tmp_path / out}"]
        return error_of(capsys, figure, *options, *flags)

    assert "'portrait' is no figure; there are attention" in mistake(figure="portrait")
    assert "does not exist" in mistake(model=tmp_path / "nowhere")
    assert "nowhere does not exist; give image files, a folder" in mistake(shown="nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in mistake(shown=tmp_path / "empty")
    assert "split='val' is no subfolder" in mistake("--split=val")
    (tmp_path / "empty.png").mkdir()
    assert "does not say its format" in mistake(out="figure")
    assert "is a folder; name a file" in mistake(out="empty.png")
    assert "--size=3 is smaller than a patch of 4" in mistake("--size=3")
    assert "--cell: 0 is not above 0" in mistake("--cell=0")
    assert "1.5" in mistake("--mass=1.5")
    assert "unrecognized arguments: --masss=1" in mistake("--masss=1")
    assert "is a folder; give one folder, or files alone" in mistake(f"--data={tmp_path / 'empty'}")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in mistake(out="file/figure.png")


def test_images_that_cannot_be_shown_are_named(export, images, tmp_path, capsys):
    (tmp_path / "images" / "001.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((3, 9, 3), np.uint8)).save(tmp_path / "images" / "002.png")
    Image.fromarray(np.zeros((4, 99, 3), np.uint8)).save(tmp_path / "images" / "003.png")
    options = [f"--from={export}", "--size=16", f"--out={tmp_path / 'figure.png'}"]
    assert main(["attention", f"--data={images}", *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("skipped ") for line in lines] == [True, True, True]
    assert "001.png: no image, or of an unknown format" in lines[0]
    assert "002.png: its 9 x 3 pixels are smaller than a patch of 4 x 4" in lines[1]
    assert "003.png: its 99 x 4 pixels, resized to 16 are smaller" in lines[2]
    bad = [f"--data={images}/{name}.png" for name in ("002", "001")]
    line = error_of(capsys, "attention", *bad, *options)
    assert "no image can be shown: " in line and "002.png: its 9 x 3" in line and "1 more" in line


def test_a_folder_may_be_called_as_a_source_begins(export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "digits_of_mine", patchwork({}))
    flags = ["--size=16", "--cell=16", "--out=figure.png"]
    assert main(["attention", f"--from={export}", "--data=digits_of_mine", *flags]) == 0
