"""The licence of weights is found beside them, and goes into the card of what becomes of them."""

import json

import pytest
from etils import epath
from foreign_weights import convert, vit

from ibot_jax.weights.foreign.files.licences import licence_beside
from ibot_jax.weights.foreign.files.torch_writer import torch_bytes

HEADER = "---\nlibrary_name: timm\nlicense: {}\ntags: [a]\n---\n# A model\nlicense: none of this\n"
APACHE = (
    "\n                                 Apache License\n                           Version 2.0\n"
)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/x.pth").write_bytes(torch_bytes(vit()))
    return tmp_path / "there/x.pth"


def converted_card(file, tmp_path, *arguments):
    """Returns what convert prints, and the card that it writes."""
    said = convert(file, tmp_path / "o.npz", "--to=npz", "--heads=4", "--overwrite", *arguments)
    return said, (tmp_path / "o.npz.md").read_text()


@pytest.mark.parametrize(
    ("beside", "licence"),
    [
        ({"LICENSE": APACHE}, "Apache License"),
        ({"LICENSE.md": "# DINOv3 License\n\nterms"}, "DINOv3 License"),
        ({"LICENSE.txt": "MIT License\n"}, "MIT License"),
        ({"README.md": HEADER.format("apache-2.0")}, "apache-2.0"),
        ({"README.md": HEADER.format('"cc-by-nc-4.0"')}, "cc-by-nc-4.0"),
        ({"README.md": HEADER.format("other\nlicense_name: dinov3-license")}, "dinov3-license"),
        ({"README.md": HEADER.format("other"), "LICENSE": APACHE}, "other"),
        ({"x.pth.md": HEADER.format("mit")}, "mit"),
        # What is nearer to the file says more than what is farther, and a card more than a text.
        ({"x.pth.md": HEADER.format("mit"), "README.md": HEADER.format("gpl-3.0")}, "mit"),
        ({"README.md": HEADER.format("mit"), "LICENSE": APACHE}, "mit"),
        ({"README.md": "# no header\nlicense: mit\n", "LICENSE": APACHE}, "Apache License"),
        ({"README.md": "---\ntags: [a]\n---\n", "LICENSE.txt": "BSD\n"}, "BSD"),
        ({"LICENSE": "\n \n", "LICENSE.md": "MIT"}, "MIT"),
        ({"README.md": HEADER.format("\n- mit\n- 'apache-2.0'")}, "mit, apache-2.0"),
        ({"README.md": HEADER.format("\n  - mit")}, "mit"),
        ({"README.md": HEADER.format("[mit, apache-2.0]")}, "mit, apache-2.0"),
        ({"README.md": HEADER.format(""), "LICENSE": "MIT"}, "MIT"),
        ({"README.md": HEADER.replace("\n", "\r\n").format("mit")}, "mit"),
    ],
)
def test_what_lies_beside_weights_tells_their_licence(file, tmp_path, beside, licence):
    for name, text in beside.items():
        (file.parent / name).write_text(text, newline="")
    assert licence_beside(epath.Path(file)) == licence
    if "x.pth.md" not in beside:
        assert licence_beside(epath.Path(file.parent)) == licence
    said, card = converted_card(file, tmp_path)
    assert f"licence, as what lies beside it says: {licence}\n" in said
    assert f"## Licence\n\n{licence}\n" in card


def test_without_any_it_is_said_that_none_is_stated(file, tmp_path):
    said, card = converted_card(file, tmp_path)
    assert "licence" not in said and "Not stated by whoever wrote these files." in card


def test_what_the_user_says_comes_first(file, tmp_path):
    (file.parent / "LICENSE").write_text(APACHE)
    _, card = converted_card(file, tmp_path, "--license=CC0-1.0")
    assert "## Licence\n\nCC0-1.0\n" in card and 'license: "cc0-1.0"\n' in card


def test_it_is_kept_from_one_conversion_to_the_next(file, tmp_path):
    (file.parent / "README.md").write_text(HEADER.format("apache-2.0"))
    convert(file, tmp_path / "there/a", "--to=timm", "--heads=4")
    convert(tmp_path / "there/a", tmp_path / "b.npz", "--to=npz")
    convert(tmp_path / "b.npz", tmp_path / "c.pth", "--to=pth")
    header = (tmp_path / "c.pth.md").read_text().split("---")[1]
    assert "license: apache-2.0\n" in header


def test_a_config_of_timm_says_it_too(file, tmp_path):
    folder = tmp_path / "a"
    convert(file, folder, "--to=timm", "--heads=4")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "cc-by-nc-4.0"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").unlink()
    convert(folder, tmp_path / "b.npz", "--to=npz")
    assert "license: cc-by-nc-4.0\n" in (tmp_path / "b.npz.md").read_text()


def test_bytes_that_are_no_text(file):
    (file.parent / "LICENSE").write_bytes(b"\xff\xfe\x00")
    (file.parent / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_beside(epath.Path(file)) == "\ufffd"
