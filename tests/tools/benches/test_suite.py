"""All measurements by one call: they go on, find the largest batch, and end on a page."""

import json
import pathlib
import xml.etree.ElementTree as ET

import cli
import pytest

from ibot_jax.tools import bench
from ibot_jax.tools.suite import page, parts


class Device:
    """A device on which a step of `batch` images needs state + each * batch bytes."""

    def __init__(self, limit: int, state: int, each: int, waste: int = 0):
        self.limit, self.state, self.each, self.waste = limit, state, each, waste
        self.tried = []

    def __call__(self, batch: int) -> dict:
        self.tried.append(batch)
        total = self.state + self.each * batch
        if total + self.waste > self.limit:
            raise parts.Failed(f"batch_size={batch} does not fit the devices' memory; use a ...")
        memory = {"aliased": self.state, "total": total, "limit": self.limit}
        return {"batch_size": batch, "memory_bytes": memory}


@pytest.mark.parametrize(
    ("limit", "most", "batch"),
    [
        (10_000, 512, 80),  # (0.9 * 10,000 - 1,000) / 100
        (10_000, 48, 48),
        (10_000, 8, 8),
        (3_000, 512, 16),  # the first try is all that fits
    ],
)
def test_the_largest_batch_is_found_from_a_small_one(limit, most, batch):
    device = Device(limit, state=1_000, each=100)
    assert parts.step_at_largest_batch(device, most)["batch_size"] == batch
    assert len(device.tried) <= 2


def test_a_batch_that_does_not_fit_after_all_is_made_smaller():
    device = Device(10_000, state=1_000, each=100, waste=2_500)
    assert parts.step_at_largest_batch(device, 512)["batch_size"] == 48
    assert device.tried == [16, 80, 48]


def test_without_a_known_limit_the_largest_is_tried():
    def measure(batch):
        return {"batch_size": batch, "memory_bytes": {"aliased": 1, "total": 10}}

    assert parts.step_at_largest_batch(measure, 64)["batch_size"] == 64


def test_another_error_is_not_taken_for_memory():
    def measure(batch):
        raise parts.Failed("the loss is not finite")

    with pytest.raises(parts.Failed, match="not finite"):
        parts.step_at_largest_batch(measure, 64)


def test_without_time_nothing_starts(tmp_path):
    with pytest.raises(parts.OutOfTime):
        parts.run_bench(["check"], tmp_path / "check.json", parts.Clock(0))
    assert not list(tmp_path.iterdir())


def test_what_takes_too_long_leaves_no_report(tmp_path):
    with pytest.raises(parts.OutOfTime):
        parts.run_bench(["check"], tmp_path / "check.json", parts.Clock(0.2))
    assert not (tmp_path / "check.json").exists()


def test_a_mistake_is_told_in_its_words(tmp_path):
    with pytest.raises(parts.Failed, match=r"^--sizes=huge is none of "):
        parts.run_bench(["check", "--sizes=huge"], tmp_path / "check.json", parts.Clock(60))


def test_the_page(tmp_path):
    def step(seconds, mfu):
        return {
            "device": "card",
            "devices": 1,
            "jax": "9.9",
            "kernels": [],
            "batch_size": 32,
            "step_seconds": [seconds] * 3,
            "images_per_second_per_device": 32 / seconds,
            "mfu": mfu,
            "memory_bytes": {"total": 3 * 2**30},
        }

    reports = {
        "check": [
            {"kernel": "cudnn", "shape": "2x3", "dtype": "bfloat16", "verdict": verdict}
            for verdict in ("agrees", "REFUSED: too far", "not checked: for a TPU")
        ],
        "step__small__auto": step(0.5, 0.4),
        "step__small__xla": step(1.0, 0.2),
        "versus__small__best": {
            "batch_size": 16,
            "style": "best",
            "torch": "3.0",
            "ours": [1.0, 2.0, 1.0],
            "theirs": [2.0, 3.0, 4.0],
            "ratio": [2.0, 1.5, 4.0],
        },
        "training": {"seconds": 90.0, "step": 100, "knn_top1": 51.25},
    }
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    page.write(tmp_path)
    page.write(tmp_path)  # its own files are no reports

    assert json.loads((tmp_path / "suite.json").read_text()) == reports
    lines = (tmp_path / "section.md").read_text().splitlines()
    assert lines[0] == "### 1 x card, jax 9.9"
    assert "Kernels (`bench check`): 1 of 2 agree." in lines
    assert "| small | xla | 32 | 500 | 64 | 40.0 % | 3.0 |" in lines
    assert "| small | best, PyTorch 3.0 | 16 | 16 | 5.333 | 2.00 (1.50 to 4.00) |" in lines
    assert lines[-1] == "Training, 1.5 min: 100 steps, 51.25 % k-NN."
    svg = ET.parse(tmp_path / "utilisation.svg").getroot()
    first, second = (float(x.get("width")) for x in svg.iter("{http://www.w3.org/2000/svg}rect"))
    assert first == pytest.approx(2 * second, abs=0.2)


@pytest.mark.slow
def test_a_suite_from_end_to_end(tmp_path, capsys):
    command = [
        "suite",
        f"--out={tmp_path / 'out'}",
        f"--configs={cli.ROOT / 'configs/digits.py'}:ibot",
        "--dtype=float32",
        "--batch-size=16",
        "--steps=2",
        "--data=digits",
    ]
    assert bench.main([*command, "--minutes=0.02"]) == 0  # no time for anything
    assert "no time; call again" in capsys.readouterr().err
    assert bench.main([*command, "--minutes=10", "--train=nowhere"]) == 1
    captured = capsys.readouterr()
    assert "training: " in captured.err and "nowhere" in captured.err
    done = {path.stem for path in pathlib.Path(tmp_path / "out").glob("*.json")}
    assert done == {"check", "step__digits-ibot__auto", "step__digits-ibot__xla", "input", "suite"}
    assert "| digits-ibot | xla | 16 |" in captured.out
    before = (tmp_path / "out/step__digits-ibot__xla.json").stat().st_mtime_ns
    bench.main([*command, "--minutes=10", "--train=nowhere"])
    assert (tmp_path / "out/step__digits-ibot__xla.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_training_is_ended_in_time_and_tells_how_far_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_SAVE_SECONDS", 5.0)
    tiny = [x for x in cli.TINY if not x.startswith(("--config=", "--config.duration"))]
    overrides = [*tiny, "--config.duration=100000 steps", "--config.checkpoint.every=1000 epochs"]
    config = str(cli.ROOT / "configs/digits.py:ibot")
    found = parts.train(config, overrides, tmp_path / "run", parts.Clock(30))
    assert found["step"] > 0 and found["seconds"] < 40
    assert any((tmp_path / "run/checkpoints").iterdir())  # saved on the way out
