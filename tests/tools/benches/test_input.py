"""bench input: every part of the pipeline has its share, on however little data."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from ibot_jax.tools import bench
from ibot_jax.tools.benches import input

CONFIG = "configs/cifar10.py"
PARTS = {"read", "decode", "draw", "crop", "color", "mask", "other", "transport"}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.jpg")
    return tmp_path


def run(folder, tmp_path, *options):
    path = tmp_path / "report.json"
    arguments = ["input", f"--config={CONFIG}", f"--data=folder:{folder}", f"--json={path}"]
    assert bench.main([*arguments, "--number=20", "--config.data.workers=1", *options]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("augment", ["host", "device"])
def test_the_parts_make_the_whole(folder, tmp_path, capsys, augment):
    report = run(folder, tmp_path, f"--config.data.augment={augment}", "--batch-size=2")
    assert set(report["part_seconds"]) == PARTS
    assert sum(report["part_seconds"].values()) == pytest.approx(report["seconds"])
    assert report["worker_seconds"] + report["owner_seconds"] == pytest.approx(report["seconds"])
    assert report["images_per_second_per_core"] * report["seconds"] == pytest.approx(1)
    for part in ("read", "decode", "draw", "crop", "mask"):
        assert report["part_seconds"][part] > 0, part
    assert (report["part_seconds"]["color"] > 0) == (augment == "host")
    assert report["augment"] == augment
    assert report["images"] == 20 and report["batch_size"] == 2
    assert report["images_per_second"] > 0 and report["transfer_wall_seconds"] > 0
    assert report["pillow_decode_seconds"] > 0
    for key in ("of_pillow", "making_of_pillow"):
        middle, low, high = report[key]
        assert 0 < low <= middle <= high, key
    shown = capsys.readouterr().out
    for word in ("speed of a core", *PARTS):
        assert word in shown


def test_fewer_images_than_a_batch_are_a_smaller_batch(folder, tmp_path):
    (folder / "0.jpg").write_bytes(b"no image")
    report = run(folder, tmp_path, "--config.data.max_bad_share=0.5")
    assert report["batch_size"] == report["source_images"] == 5
    assert report["images"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data=folder:/nowhere"], "data.source='folder:/nowhere' is no folder"),
        (["--data=digits", "--number=0"], "--number: 0 is not above 0"),
        (["--data=digits", "--json=/nowhere/x"], "/nowhere/x cannot be written"),
        (["--data=digits", "--config.data.resize=area"], "data.resize='area'"),
    ],
)
def test_a_mistake_is_one_line(options, message, capsys):
    assert bench.main(["input", f"--config={CONFIG}", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_too_many_bad_images_are_an_error(folder, capsys):
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    parser = argparse.ArgumentParser()
    input.add_arguments(parser)
    arguments = parser.parse_args([f"--config={CONFIG}", f"--data=folder:{folder}"])
    arguments.overrides = []
    assert input.run(arguments) == 1
    assert "data.max_bad_share" in capsys.readouterr().err
