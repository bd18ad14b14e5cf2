"""bench features: extraction beside the forward pass, its arithmetic, and mistakes in one line."""

import json
import statistics

import cli
import numpy as np
import pytest
from PIL import Image

from ibot_jax.tools import bench

SMALL = [
    "features",
    *cli.TINY,
    "--config.data.max_per_class=0",
    "--batch-size=8",
    "--number=12",
    "--rounds=2",
]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def test_three_sides_are_timed_and_two_are_related_to_the_peak(folder, tmp_path, capsys):
    path = tmp_path / "report.json"
    assert bench.main([*SMALL, f"--data=folder:{folder}", f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    seconds = report["seconds"]
    assert {name: len(turns) for name, turns in seconds.items()} == {
        "forward": 2,
        "input": 2,
        "extraction": 2,
    }
    of_rounds = np.divide(seconds["forward"], seconds["extraction"])
    np.testing.assert_allclose(report["ratio"], of_rounds)
    # 9 patches of 64 values and a class token, width 16, one block with 64 hidden units.
    flops = 2 * 9 * 64 * 16 + 2 * 10 * (4 * 16**2 + 2 * 16 * 64) + 4 * 10 * 10 * 16
    assert report["model_flops_per_image"] == flops
    for name in ("forward", "extraction"):
        rate = 16 / statistics.median(seconds[name]) / report["devices"]  # two whole batches
        share = rate * flops / report["peak_flops_per_second"]
        assert report["utilisation"][name] == pytest.approx(share)
    printed = capsys.readouterr().out
    assert "8 images, float32; 16 images a turn" in printed
    assert f"{16 / statistics.median(seconds['input']):.4g} images/s" in printed
    assert "the median of 2 rounds" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=folder:/nowhere"], "data.source='folder:/nowhere' is no folder"),
        (["--config.dtype=float64"], "dtype='float64' is none of evaluations"),
        (["--batch-size=12"], "--batch-size=12 is no multiple of the 8 devices"),
        (["--rounds=0"], "argument --rounds: 0 is not above 0"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert bench.main([*SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_nothing_is_timed_of_images_that_cannot_be_read(folder, capsys):
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    assert bench.main([*SMALL, f"--data=folder:{folder}"]) == 2
    assert "0 of the 3 images" in capsys.readouterr().err
