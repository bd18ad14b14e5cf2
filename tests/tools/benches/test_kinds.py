"""bench kinds: the same images, in the same order, whatever kind of source they lie in."""

import json

import numpy as np
import pytest
from PIL import Image

from ibot_jax.data.sources.opening import open_source
from ibot_jax.tools import bench
from ibot_jax.tools.benches import kinds

CONFIG = "configs/cifar10.py"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.jpg")
    return tmp_path


@pytest.mark.parametrize("kind", kinds._KINDS)
def test_a_kind_holds_the_images_in_their_order(folder, tmp_path_factory, kind):
    if kind == "hf":
        pytest.importorskip("datasets")
    images = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    out = tmp_path_factory.mktemp(kind)
    source = open_source(kinds._KINDS[kind](images, out), "train", data_dir=str(out))
    found = [source.fetch(source.locate(index)[0]) for index in range(len(source))]
    assert found == list(images.values())


def test_each_kind_is_a_row(folder, tmp_path_factory, capsys):
    report = tmp_path_factory.mktemp("report") / "report.json"
    command = ["kinds", f"--config={CONFIG}", f"--data=folder:{folder}", "--config.data.workers=1"]
    flags = ["--number=4", "--batch-size=2", "--kinds=list,tar", f"--json={report}"]
    assert bench.main([*command, *flags]) == 0
    found = json.loads(report.read_text())
    assert list(found) == ["list", "tar"]
    assert [kind["source_images"] for kind in found.values()] == [5, 5]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kind", "list", "tar"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kinds=tar,rar"], "--kinds=rar is none of folder, list, "),
        (["--data=digits"], "give a folder of files"),
    ],
)
def test_a_mistake_is_one_line(folder, flags, message, capsys):
    command = ["kinds", f"--config={CONFIG}", f"--data=folder:{folder}"]
    assert bench.main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
